"""A small configuration of mmdet's YOLACT."""

from parity_tests.cases.segmentation._instances import instances, losses_instances
from parity_tests.cases.segmentation.yolact import SMALL
from parity_tests.harness.case import Case, Reference, images

TERMS = ("loss_cls", "loss_bbox", "loss_mask", "loss_segm")

CASES = [
    Case(
        "yolact_r50_mmdet",
        images(96, 90),
        instances(96, 90, 3),
        SMALL,
        criterion={"max_masks": 12},
        postprocess={"level_candidates": 60, "candidates": 40, "detections": 10},
        references=[
            Reference(
                "yolact_r50_8xb8-55e_coco",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(5)}
                | {f"bbox_head.0.{i}": f"bbox_head.conv_cls#{i}" for i in range(5)}
                | {f"bbox_head.1.{i}": f"bbox_head.conv_reg#{i}" for i in range(5)},
                outputs={"segm_branch": "segm"},
                inputs={"input": "images"},
                losses={f"{key}.{i}": key for key in TERMS for i in (0, 1)},
                targets=losses_instances,
            )
        ],
    )
]
