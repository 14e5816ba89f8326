"""Small configurations of YOLOv2."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._darknet import converted
from parity_tests.harness.case import SAME_GRAPH, Case, images

FEW = {"candidates": 40, "detections": 20, "score_threshold": 0.05}

CASES = [
    Case(
        "yolov2",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "num_classes": 4},
        criterion={"prior_scale": 0.01},
        postprocess=FEW,
        references=[converted("darknet_yolov2", (5, 10, 16, 21, 26), ("",), 50)],
    ),
    Case(
        "yolov2_voc",
        images(96, 64),
        objects(96, 64, 20),
        {"width": 0.0625},
        postprocess=FEW,
        without=SAME_GRAPH,
    ),
    Case(
        "yolov2_tiny",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "num_classes": 4},
        postprocess=FEW,
        references=[converted("darknet_yolov2_tiny", (2, 8, 10, 13), ("",))],
    ),
    Case(
        "yolov2_tiny_voc",
        images(96, 64),
        objects(96, 64, 20),
        {"width": 0.0625},
        postprocess=FEW,
        without=SAME_GRAPH,
    ),
]
