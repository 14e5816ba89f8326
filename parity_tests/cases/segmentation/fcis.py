"""A small configuration of FCIS."""

from parity_tests.cases.segmentation._instances import instances
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "fcis_resnet101",
        images(112, 96),
        instances(112, 96, 3),
        {
            "num_classes": 3,
            "layers": (1, 1, 2, 1),
            "width": 4,
            "rpn_channels": 8,
            "channels": 8,
            "group_size": 3,
            "pooled_size": 9,
            "candidates": 60,
            "proposals": 12,
        },
        criterion={"anchors": 16, "rois": 8},
        postprocess={"candidates": 60, "detections": 10},
    ),
]
