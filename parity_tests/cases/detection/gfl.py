"""Small configurations of the generalised focal loss."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "gfl_r50_fpn",
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        references=[
            mmdet(
                "gfl_r50_fpn_1x_coco",
                ("cls", "reg"),
                {"loss_cls.": "loss_cls", "loss_bbox.": "loss_bbox", "loss_dfl.": "loss_dfl"},
            )
        ],
    ),
]
