"""Small configurations of ATSS."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "atss_r50_fpn",
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        references=[
            mmdet(
                "atss_r50_fpn_1x_coco",
                ("cls", "reg", "ctr"),
                {"loss_cls.": "loss_cls", "loss_bbox.": "loss_bbox", "loss_centerness.": "loss_centerness"},
            )
        ],
    ),
]
