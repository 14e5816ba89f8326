"""Cases of GCN."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "gcn_resnet152",
        images(64, 49),
        label_maps(64, 49, 4),
        {"layers": (1, 1, 1, 1), "planes": (8, 16, 24, 32), "kernel_size": 5, "num_classes": 4},
        references=[
            Reference(
                "pytorch_semseg_gcn_resnet152",
                outputs={"out": "logits"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
            )
        ],
    )
]
