"""Cases of efficientnet."""

from parity_tests.cases.classification._common import efficientnet

CASES = [
    efficientnet("tf_efficientnet_b0", "timm_tf_efficientnet_b0", (65, 50), training=True, loss=True),
    efficientnet("tf_efficientnet_b1", "timm_tf_efficientnet_b1", (49, 65), depth=1.1, pad_mode="torch", bn_eps=1e-5),
    efficientnet("tf_efficientnet_lite0", "timm_tf_efficientnet_lite0", (65, 49)),
]
