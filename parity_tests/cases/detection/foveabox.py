"""Small configurations of FoveaBox."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images

LOSSES = {"loss_cls": "loss_cls", "loss_bbox": "loss_bbox"}

CASES = [
    Case(
        "fovea_r50_fpn",
        images(65, 97),
        objects(65, 97, 4),
        SMALL,
        postprocess=FEW,
        references=[mmdet("fovea_r50_fpn_4xb4-1x_coco", ("cls", "reg"), LOSSES)],
    ),
    Case(
        "fovea_r50_fpn_gn_align",
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4, "wide": 2},
        postprocess=FEW,
        references=[mmdet("fovea_r50_fpn_gn-head-align_4xb4-2x_coco", ("cls", "reg"), LOSSES)],
    ),
]
