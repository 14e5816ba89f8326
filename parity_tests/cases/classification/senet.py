"""Cases of senet."""

from parity_tests.cases.classification._common import resnet

CASES = [
    resnet("se_resnet18", "timm_legacy_seresnet18", loss=True, training=True, stem=(16,)),
    resnet("se_resnet50", "timm_legacy_seresnet50", stem=(16,)),
    resnet("se_resnext26_32x4d", "timm_legacy_seresnext26_32x4d", loss=True, stem=(16,), groups=4, base_width=16),
    resnet(
        "senet154", "timm_legacy_senet154", published={"layers": (1, 2, 1, 1)}, stem=(8, 8, 16), groups=8, dropout=0.0
    ),
]
