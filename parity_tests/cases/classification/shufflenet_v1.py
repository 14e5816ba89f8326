"""Cases of shufflenet_v1."""

from parity_tests.cases.classification._common import SHUFFLENET_V1, reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "shufflenet_v1_g3_x0_5",
        images(65, 49),
        labels(10),
        {"layers": (2, 2, 1), "channels": (12, 24, 48, 96), "num_classes": 10},
        references=[reference("megvii_shufflenet_v1_g3_x0_5", SHUFFLENET_V1, True, True)],
    ),
    Case(
        "shufflenet_v1_g8_x0_5",
        images(49, 70),
        labels(10),
        {"layers": (1, 2, 1), "channels": (16, 64, 128, 192), "num_classes": 10},
        references=[reference("megvii_shufflenet_v1_g8_x0_5", SHUFFLENET_V1)],
    ),
]
