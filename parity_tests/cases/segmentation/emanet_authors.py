"""A small configuration of EMANet as its authors have it."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "emanet_resnet50",
        images(65, 49),
        label_maps(65, 49),
        {
            "layers": (1, 1, 1, 3),
            "planes": (8, 16, 24, 32),
            "num_classes": 5,
            "ema_channels": 16,
            "num_bases": 6,
            "channels": 8,
            "dropout": 0.0,
        },
        references=[
            Reference(
                "emanet_official_r50",
                {"dropout": 0.0},
                modules={name: name for name in ("extractor", "fc0", "emau")},
                outputs={"out": "logits", "mu": "bases"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
            )
        ],
    ),
]
