"""Cases of squeezenet."""

from parity_tests.cases.classification._common import reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "squeezenet1_0",
        images(65, 49),
        labels(10),
        {"stem": (16, 7), "stages": ((4, 6), (8,), (10,)), "num_classes": 10, "dropout": 0.0},
        references=[reference("torchvision_squeezenet1_0", [f"features.{i}" for i in (1, 5, 10, 12)], dropout=0.0)],
    ),
    Case(
        "squeezenet1_1",
        images(65, 70),
        labels(10),
        {"stages": ((4, 6), (8,), (10,)), "num_classes": 10, "dropout": 0.0},
        references=[
            reference("torchvision_squeezenet1_1", [f"features.{i}" for i in (1, 4, 7, 12)], loss=True, dropout=0.0)
        ],
    ),
]
