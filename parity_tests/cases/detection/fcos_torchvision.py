"""A small configuration of torchvision's FCOS."""

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.harness.case import Case, Reference, images

FPN = "backbone.fpn"

CASES = [
    Case(
        "fcos_resnet50_fpn",
        images(97, 81),
        objects(97, 81, 4, first=1),
        {
            "layers": (1, 1, 1, 1),
            "planes": (8, 16, 24, 32),
            "out_channels": 16,
            "num_convs": 1,
            "norm_groups": 4,
            "num_classes": 4,
        },
        postprocess={"candidates": 50, "detections": 20, "score_threshold": 0.1},
        references=[
            Reference(
                "torchvision_fcos_resnet50_fpn",
                modules={f"backbone.body.{i}": f"backbone.body.layer{i + 2}" for i in range(3)}
                | {f"features.{i}": f"{FPN}.layer_blocks.{i}" for i in range(3)}
                | {"features.3": f"{FPN}.extra_blocks.p6", "features.4": f"{FPN}.extra_blocks.p7"},
                outputs={
                    "head.cls_logits": "cls_logits",
                    "head.bbox_regression": "bbox_regression",
                    "head.bbox_ctrness": "bbox_ctrness",
                },
                inputs={"image": "images"},
                losses={key: key for key in ("classification", "bbox_regression", "bbox_ctrness")},
                targets=stored_objects,
            )
        ],
    )
]
