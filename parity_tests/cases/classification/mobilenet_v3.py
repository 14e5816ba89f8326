"""Cases of mobilenet_v3."""

from parity_tests.cases.classification._common import ROWS, SMALL_MOBILENET, reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "mobilenet_v3_large",
        images(65, 49),
        labels(10),
        {"rows": ROWS, "last_channels": 40, **SMALL_MOBILENET},
        references=[
            reference(
                "torchvision_mobilenet_v3_large", [f"features.{i}" for i in (1, 6, 12, 15)], loss=True, dropout=0.0
            )
        ],
    ),
    Case(
        "mobilenet_v3_small",
        images(49, 65),
        labels(10),
        {"rows": ROWS, "last_channels": 40, "reduced_tail": True, "dilated": True, **SMALL_MOBILENET},
        references=[
            reference(
                "torchvision_mobilenet_v3_small", [f"features.{i}" for i in (1, 3, 8, 11)], training=True, dropout=0.0
            ),
            reference(
                "torchvision_mobilenet_v3_small_dilated",
                [f"features.{i}" for i in (1, 3, 8, 11)],
                reduced_tail=True,
                dilated=True,
                dropout=0.0,
            ),
        ],
    ),
]
