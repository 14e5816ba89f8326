"""Cases of mobilenet_v1."""

from parity_tests.cases.classification._common import SMALL_MOBILENET
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "mobilenet_v1",
        images(65, 50),
        labels(10),
        {"width": 0.25, "blocks": ((64, 1), (128, 2), (128, 1), (160, 2)), **SMALL_MOBILENET},
    ),
]
