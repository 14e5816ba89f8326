"""A small configuration of YOLOv5 with the middle depth."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection.yolov5 import FEW, reference
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "yolov5m",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "num_classes": 4},
        postprocess=FEW,
        references=[reference("ultralytics_yolov5m", 50)],
        without=SAME_GRAPH,
    ),
]
