"""Small configurations of SOLO."""

from parity_tests.cases.segmentation._instances import FEW, RANGES, SMALL, instances, mmdet_masks
from parity_tests.harness.case import Case, images

CLASSES = {f"mask_head.conv_cls@{i}" if i else "mask_head.conv_cls": f"mask_head.conv_cls#{i}" for i in range(5)}


def solo(file: str, *keys: str):
    """The head's outputs in evaluation, which its losses are computed of."""
    outputs = {f"mask_head.{k}.{i}": f"{key}_p{i + 2}" for k, key in enumerate((*keys, "cls")) for i in range(5)}
    return mmdet_masks(file, outputs, options={"evaluated": True})


CASES = [
    Case(
        "solo_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        SMALL,
        criterion={"ranges": RANGES},
        postprocess={**FEW, "score_threshold": 0.01, "filter_threshold": 0.0},
        references=[solo("solo_r50_fpn_1x_coco", "mask")],
    ),
    Case(
        "decoupled_solo_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        SMALL,
        criterion={"ranges": RANGES},
        postprocess={**FEW, "score_threshold": 0.01, "filter_threshold": 0.0},
        references=[solo("decoupled-solo_r50_fpn_1x_coco", "mask_x", "mask_y")],
    ),
    Case(
        "decoupled_solo_light_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        SMALL,
        criterion={"ranges": RANGES},
        postprocess={**FEW, "kernel": "linear", "score_threshold": 0.01, "filter_threshold": 0.0},
        references=[solo("decoupled-solo-light_r50_fpn_3x_coco", "mask_x", "mask_y")],
    ),
]
