"""Small configurations of Gaussian YOLOv3."""

from parity_tests.cases.detection import objects
from parity_tests.harness.case import SAME_GRAPH, Case, images

SMALL = {"depths": (1, 1, 1, 1, 1), "widths": (4, 6, 8, 10, 12, 14)}
FEW = {"candidates": 50, "detections": 20}

CASES = [
    Case(
        "gaussian_yolov3_bdd",
        images(64, 96),
        objects(64, 96, 4),
        {**SMALL, "num_classes": 4},
        postprocess=FEW,
        learning_rate=2.0**-12,
    ),
    Case(
        "gaussian_yolov3_kitti",
        images(64, 96),
        objects(64, 96, 3),
        SMALL,
        postprocess=FEW,
        learning_rate=2.0**-12,
        without=SAME_GRAPH,
    ),
]
