"""Small configurations of TensorMask."""

from parity_tests.cases.segmentation._instances import instances
from parity_tests.cases.segmentation.blendmask import scene_targets
from parity_tests.harness.case import Case, Reference, images

WINDOWS = {"windows": (3, 5)}
MAPS = {f"{theirs}.{i}": f"{ours}_p{i + 2}" for theirs, ours in (("cls", "cls"), ("box", "reg")) for i in range(6)}

CASES = [
    Case(
        "tensormask_r50_fpn",
        images(64, 90),
        instances(64, 90, 4),
        {
            "layers": (1, 1, 1, 1),
            "planes": (4, 4, 8, 8),
            "num_classes": 4,
            "out_channels": 8,
            "mask_channels": 8,
            "num_convs": 1,
            **WINDOWS,
        },
        criterion={**WINDOWS, "max_masks": 12},
        postprocess={**WINDOWS, "candidates": 50, "detections": 10},
        references=[
            Reference(
                "detectron2_tensormask_r50_fpn",
                modules={f"fpn.p{i}": f"backbone.fpn_output{i}" for i in range(2, 6)}
                | {f"fpn.p{i}": f"backbone.top_block.p{i}" for i in (6, 7)},
                outputs=MAPS | {f"masks.{i}.{a}": f"mask_p{i + 2}_{a}" for i in range(6) for a in range(2)},
                inputs={"image": "images"},
                losses={key: key for key in ("loss_cls", "loss_box_reg", "loss_mask")},
                targets=scene_targets,
            )
        ],
    ),
]
