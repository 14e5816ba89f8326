"""Cases of resnetv2."""

from parity_tests.cases.classification._common import resnetv2

CASES = [
    resnetv2("resnetv2_18", "timm_resnetv2_18", channels=(16, 24, 32, 40)),
    resnetv2("resnetv2_50", "timm_resnetv2_50", loss=True),
    resnetv2("resnetv2_50d", "timm_resnetv2_50d"),
    resnetv2("resnetv2_50x1_bit", "timm_resnetv2_50x1_bit", groups=8),
]
