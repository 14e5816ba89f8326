"""A small configuration of FCIS, with and without a vote on the masks."""

from parity_tests.cases.segmentation._instances import instances
from parity_tests.harness.case import Case, images

SMALL = {
    "num_classes": 3,
    "layers": (1, 1, 2, 1),
    "width": 4,
    "rpn_channels": 8,
    "channels": 8,
    "group_size": 3,
    "pooled_size": 9,
    "candidates": 60,
    "proposals": 12,
}
FEW = {"candidates": 60, "detections": 10}
CASES = [
    Case(
        "fcis_resnet101",
        images(112, 96),
        instances(112, 96, 3),
        SMALL,
        criterion={"anchors": 16, "rois": 8},
        postprocess=FEW,
    ),
    Case(
        "fcis_resnet101",
        images(112, 96),
        instances(112, 96, 3),
        SMALL,
        criterion={"anchors": 16, "rois": 8},
        postprocess={**FEW, "voting": False},
        variant="plain",
        without=dict.fromkeys(("initial", "gradients", "training", "onnx"), "the model is that of the other case"),
    ),
]
