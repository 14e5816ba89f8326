"""Cases of PAN."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "pan_resnet50",
        images(128, 144),
        label_maps(128, 144, 4),
        {"layers": (1, 1, 1, 1), "planes": (8, 16, 24, 32), "channels": 6, "num_classes": 4},
        references=[
            Reference(
                "smp_pan_resnet50",
                modules={f"features.{i}": f"encoder.layer{i}" for i in range(1, 5)} | {"decoder": "decoder"},
                outputs={"out": "logits"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
            )
        ],
    )
]
