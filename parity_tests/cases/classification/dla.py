"""Cases of DLA."""

from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "dla34",
        images(64, 96),
        labels(10),
        {"widths": (4, 6, 8, 10, 12, 14), "num_classes": 10},
    )
]
