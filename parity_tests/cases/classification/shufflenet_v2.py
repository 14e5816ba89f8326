"""Cases of shufflenet_v2."""

from parity_tests.cases.classification._common import reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "shufflenet_v2_x0_5",
        images(65, 49),
        labels(10),
        {"layers": (2, 1, 2), "channels": (8, 12, 24, 32, 40), "num_classes": 10},
        references=[
            reference("torchvision_shufflenet_v2_x0_5", ["stage2", "stage3", "stage4"], True, True),
        ],
    ),
    Case(
        "shufflenet_v2_x1_0",
        images(33, 47),
        labels(10),
        {"layers": (2, 2, 1), "channels": (8, 16, 24, 32, 48), "num_classes": 10},
        references=[reference("torchvision_shufflenet_v2_x1_0", ["stage2", "stage3", "stage4"])],
    ),
]
