"""A small configuration of YOLOv4-tiny, whose objects belong to one anchor or to several."""

from parity_tests.cases.detection import objects
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "yolov4_tiny",
        images(64, 96),
        objects(64, 96, 4),
        {"width": 0.125, "num_classes": 4},
        criterion=criterion,
        postprocess={"candidates": 50, "detections": 20},
        learning_rate=2.0**-12,
        variant=variant,
        without=without,
    )
    for variant, criterion, without in (
        ("", {}, {}),
        ("several-anchors", {"likeness": 0.213}, {"results": "the results are those of the other case"}),
    )
]
