"""A small configuration of DeepLab v1."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "deeplabv1_largefov_vgg16",
        images(64, 49),
        label_maps(64, 49),
        {"num_classes": 5, "widths": (8, 8, 8, 12, 12), "fc_width": 16, "rate": 3, "dropout": 0.0},
        references=[
            Reference(
                "largefov_vgg16",
                modules={"features.16": "features.16", "features.30": "features.30", "classifier": "classifier"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
                gradient_bound=3e-3,
                reason="the reference in single precision differs by 1.4e-3 from itself in double precision: rounding "
                "decides which pixel of a pool is the largest",
            )
        ],
    ),
]
