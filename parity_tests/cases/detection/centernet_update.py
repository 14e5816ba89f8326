"""Small configurations of mmdet's CenterNet over a pyramid."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import Case, images


def small(model: str, file: str) -> Case:
    return Case(
        model,
        images(129, 193),
        objects(129, 193, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        references=[
            mmdet(
                file,
                ("cls", "reg"),
                {key: key for key in ("loss_cls", "loss_bbox")},
                options={"in_pixels": True},  # in evaluation, its losses included, mmdet's distances are in pixels
            )
        ],
    )


CASES = [
    small("centernet_update_r18", "centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco"),
    small("centernet_update_r50_caffe", "centernet-update_r50-caffe_fpn_ms-1x_coco"),
]
