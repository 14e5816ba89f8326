"""Cases of xception."""

from parity_tests.cases.classification._common import SMALL_XCEPTION, XCEPTION, reference
from parity_tests.harness.case import Case, images, labels

CASES = [
    Case(
        "xception",
        images(98, 83),
        labels(10),
        SMALL_XCEPTION,
        references=[
            reference("timm_legacy_xception", XCEPTION, training=True, bn_eps=1e-5, bn_momentum=0.1, pad_mode="torch"),
        ],
    ),
    Case(
        "xception",
        images(83, 96),
        labels(10),
        {**SMALL_XCEPTION, "bn_eps": 1e-5, "pad_mode": "torch"},
        variant="torch",
        references=[
            reference("timm_legacy_xception_10", XCEPTION, loss=True, num_classes=10, bn_eps=1e-5, pad_mode="torch"),
        ],
    ),
]
