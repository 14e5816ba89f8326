"""Cases of DeepLab v2."""

import functools

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

SMALL = {"width": 8, "layers": (1, 1, 2, 1), "num_classes": 5}
SCALES = ("full", "half", "threequarters")

CASES = [
    Case(
        "deeplabv2_resnet101",
        images(65, 49),
        label_maps(65, 49),
        SMALL,
        references=[
            Reference(
                "deeplabpytorch_deeplabv2_resnet101",
                modules={f"layer{i}": f"layer{i}" for i in (1, 2, 3, 5)},
                outputs={"out": "logits"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=functools.partial(grid_labels, size=(9, 13)),
            )
        ],
    ),
    Case(
        "deeplabv2_resnet101_msc",
        images(65, 49),
        label_maps(65, 49),
        SMALL,
        references=[
            Reference(
                "deeplabpytorch_deeplabv2_resnet101_msc",
                outputs={"max": "logits", **{name: name for name in SCALES}},
                inputs={"image": "images"},
                losses={"max": "ce", **{name: name for name in SCALES}},
                targets=grid_labels,
            )
        ],
    ),
]
