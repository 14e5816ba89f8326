"""Cases of resnest."""

from dataclasses import replace

from parity_tests.cases.classification._common import resnet

CASES = [
    replace(
        resnet(
            "resnest14",
            "timm_resnest14d",
            loss=True,
            training=True,
            layers=(1, 2, 1, 1),
            deep_stem=(8, 8, 16),
            groups=2,
        ),
        learning_rate=2.0**-10,
    ),
    resnet("resnest14", variant="dilated", deep_stem=(8, 8, 16), output_stride=8, zero_init_residual=True),
    resnet("resnest50_fast_1s4x24d", "timm_resnest50d_1s4x24d", deep_stem=(8, 8, 16), base_width=32),
    resnet("resnest50_fast_4s2x40d", "timm_resnest50d_4s2x40d", deep_stem=(8, 8, 16), base_width=32),
]
