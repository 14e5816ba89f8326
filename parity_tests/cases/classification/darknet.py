"""Cases of Darknet."""

from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "darknet53",
        images(65, 97),
        labels(10),
        {"depths": (1, 2, 1, 1, 1), "widths": (4, 6, 8, 10, 12, 14), "num_classes": 10},
    )
]
