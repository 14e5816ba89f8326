"""Cases of inception_resnet_v2."""

from parity_tests.cases.classification._common import INCEPTION_RESNET_V2, inception, reference

CASES = [
    *inception(
        "inception_resnet_v2",
        reference("timm_inception_resnet_v2", INCEPTION_RESNET_V2, training=True),
        reference("timm_inception_resnet_v2_10", INCEPTION_RESNET_V2, loss=True, num_classes=10),
    ),
]
