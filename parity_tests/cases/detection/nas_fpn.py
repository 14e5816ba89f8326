"""A small configuration of RetinaNet on NAS-FPN."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, losses_objects
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "retinanet_r50_nasfpn",
        images(128, 256),
        objects(128, 256, 4),
        {**SMALL, "out_channels": 8, "stack_times": 2},
        postprocess=FEW,
        references=[
            Reference(
                "retinanet_r50_nasfpn_crop640-50e_coco",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"neck.{i}": f"neck@{i}" for i in range(5)}
                | {f"bbox_head.0.{i}": f"bbox_head.retina_cls#{i}" for i in range(5)}
                | {f"bbox_head.1.{i}": f"bbox_head.retina_reg#{i}" for i in range(5)},
                inputs={"input": "images"},
                losses={f"{key}.{i}": key for key in ("loss_cls", "loss_bbox") for i in range(5)},
                targets=losses_objects,
            )
        ],
    )
]
