"""Cases of inception_v4."""

from parity_tests.cases.classification._common import INCEPTION_V4, inception, reference

CASES = [
    *inception(
        "inception_v4",
        reference("timm_inception_v4", INCEPTION_V4),
        reference("timm_inception_v4_10", INCEPTION_V4, loss=True, num_classes=10),
    ),
]
