"""Small configurations of CondInst."""

from dataclasses import replace

from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.cases.segmentation._instances import instances, losses_instances
from parity_tests.harness.case import Case, images

MMDET = mmdet(
    "condinst_r50_fpn_ms-poly-90k_coco_instance",
    ("cls", "reg", "ctr", "params"),
    {key: key for key in ("loss_cls", "loss_bbox", "loss_centerness", "loss_mask")},
    options={"in_pixels": True},  # in evaluation, its losses included, mmdet's distances are in pixels
)

CASES = [
    Case(
        "condinst_r50_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "norm_groups": 4, "mask_mid_channels": 8, "mask_channels": 4},
        criterion={"max_masks": 30},
        postprocess={**FEW, "detections": 10},
        references=[
            replace(
                MMDET,
                outputs={**MMDET.outputs, "mask_head.mask_feature_head": "mask_features"},
                targets=losses_instances,
            )
        ],
    ),
]
