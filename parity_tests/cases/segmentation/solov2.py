"""Small configurations of SOLOv2."""

from parity_tests.cases.segmentation._instances import FEW, RANGES, SMALL, instances, mmdet_masks
from parity_tests.harness.case import SAME_GRAPH, Case, images

OUTPUTS = {f"mask_head.{k}.{i}": f"{key}_p{i + 2}" for k, key in enumerate(("kernel", "cls")) for i in range(5)}
COUNTED = {"reference": "no file of this variant; its parameters are counted at the published size"}

CASES = [
    Case(
        "solov2_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "mask_channels": 8, "mask_out_channels": 12},
        criterion={"ranges": RANGES},
        postprocess={**FEW, "score_threshold": 0.01, "filter_threshold": 0.0},
        references=[mmdet_masks("solov2_r50_fpn_1x_coco", {**OUTPUTS, "mask_head.2": "mask_features"})],
    ),
    Case(
        "solov2_light_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "mask_channels": 8, "mask_out_channels": 12},
        postprocess={**FEW, "kernel": "linear", "score_threshold": 0.01, "filter_threshold": 0.0},
        without=COUNTED,
    ),
    Case(
        "solov2_r101_dcn_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "mask_channels": 8, "mask_out_channels": 12},
        criterion={"ranges": RANGES},
        postprocess={**FEW, "score_threshold": 0.01, "filter_threshold": 0.0},
        without=COUNTED,
    ),
    Case(
        "solov2_light_r50_dcn_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "mask_channels": 8, "mask_out_channels": 12, "num_convs": 2},
        without=SAME_GRAPH | COUNTED,
    ),
]
