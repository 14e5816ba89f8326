"""Small configurations of FSAF."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "fsaf_r50_fpn",
        images(65, 97),
        objects(65, 97, 4),
        SMALL,
        postprocess=FEW,
        references=[
            mmdet("fsaf_r50_fpn_1x_coco", ("cls", "reg"), {"loss_cls.": "loss_cls", "loss_bbox.": "loss_bbox"})
        ],
    ),
]
