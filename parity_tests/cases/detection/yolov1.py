"""Small configurations of YOLOv1: images of 192 pixels have 3 x 3 cells."""

from parity_tests.cases.detection import objects
from parity_tests.harness.case import SAME_GRAPH, Case, images

SMALL = {"width": 1 / 32, "side": 3, "num_classes": 4}
SIDE = {"side": 3}
FEW = {"side": 3, "detections": 10}


def small(model: str, options: dict, **others) -> Case:
    return Case(
        model,
        images(192, 192),
        objects(192, 192, 4),
        {**SMALL, **options},
        criterion=SIDE,
        postprocess=FEW,
        **others,
    )


CASES = [
    small("yolov1", {"hidden": (9,), "drop": 0.0}),
    small("yolov1_small", {"hidden": (7, 9), "drop": 0.0}, without=SAME_GRAPH),
    small("yolov1_local", {"drop": 0.0}),
    small("yolov1_tiny", {"width": 0.25}, without=SAME_GRAPH),
]
