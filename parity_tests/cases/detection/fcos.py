"""Small configurations of FCOS."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images

LOSSES = {"loss_cls": "loss_cls", "loss_bbox": "loss_bbox", "loss_centerness": "loss_centerness"}
KEYS = ("cls", "reg", "ctr")

CASES = [
    Case(
        "fcos_r50_caffe_gn",
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        references=[mmdet("fcos_r50-caffe_fpn_gn-head_1x_coco", KEYS, LOSSES)],
    ),
    Case(
        "fcos_r50_caffe_improved",
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        references=[
            mmdet(
                "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco",
                KEYS,
                LOSSES,
                options={"in_pixels": True},  # in evaluation, its losses included, mmdet's distances are in pixels
            )
        ],
    ),
]
