"""Small configurations of TensorMask without its bipyramid."""

from parity_tests.cases.segmentation._instances import instances
from parity_tests.cases.segmentation.tensormask import WINDOWS
from parity_tests.harness.case import SAME_GRAPH, Case, images


def plain(variant: str, aligned: bool, without: dict) -> Case:
    """The configuration with masks of as many pixels on all levels."""
    return Case(
        "tensormask_r50_fpn",
        images(64, 90),
        instances(64, 90, 4),
        {
            "layers": (1, 1, 1, 1),
            "planes": (4, 4, 8, 8),
            "num_classes": 4,
            "out_channels": 8,
            "mask_channels": 8,
            "num_convs": 1,
            "aligned": aligned,
            "bipyramid": False,
            **WINDOWS,
        },
        criterion={**WINDOWS, "max_masks": 12, "bipyramid": False},
        postprocess={**WINDOWS, "candidates": 50, "detections": 10, "bipyramid": False},
        variant=variant,
        without=without | {"reference": "no file of this variant, for which the reference has no configuration"},
    )


CASES = [plain("natural", False, {}), plain("aligned", True, dict(SAME_GRAPH))]
