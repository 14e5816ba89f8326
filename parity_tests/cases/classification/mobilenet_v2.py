"""Cases of mobilenet_v2."""

from parity_tests.cases.classification._common import BLOCKS, SMALL_MOBILENET, STAGES, reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "mobilenet_v2",
        images(65, 49),
        labels(10),
        {"width": 0.35, "stages": STAGES, **SMALL_MOBILENET},
        criterion={"label_smoothing": 0.1, "weight": tuple(0.5 + 0.1 * i for i in range(10))},
        references=[reference("torchvision_mobilenet_v2", BLOCKS, True, True, dropout=0.0)],
    ),
    Case(
        "mobilenet_v2_035",
        images(33, 41),
        labels(10),
        {"stages": STAGES, **SMALL_MOBILENET},
        references=[reference("torchvision_mobilenet_v2_w035", BLOCKS, dropout=0.0)],
    ),
    Case("mobilenet_v2_embedding", images(49, 65), options={"width": 0.35, "stages": STAGES}),
]
