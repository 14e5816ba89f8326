"""Cases of resnet."""

from parity_tests.cases.classification._common import resnet

CASES = [
    resnet("resnet18", "torchvision_resnet18", loss=True, training=True),
    resnet("resnet18", variant="zero_init_residual", zero_init_residual=True, norm_eval=True, frozen_stages=1),
    resnet("resnet34", "torchvision_resnet34"),
    resnet("resnet50", "torchvision_resnet50", loss=True, training=True),
    resnet("resnet50", variant="stride_in_1x1", stride_in_1x1=True, output_stride=8),
    resnet("resnet50_dcn", deform_groups=2, planes=(8, 16, 16, 16)),
    resnet("resnet50_gcb", ratio=0.25),
    resnet("resnet50_attention", num_heads=4),
    resnet("wide_resnet50_2", "torchvision_wide_resnet50_2"),
    resnet("resnext50_32x4d", "torchvision_resnext50_32x4d", groups=4, base_width=16),
    resnet("resnet18d", "timm_resnet18d"),
    resnet("resnet50d", "timm_resnet50d", loss=True),
    resnet("resnet50c", "timm_resnet50c"),
    resnet("resnet50s", "timm_resnet50s"),
    resnet("resnet50_gn", "timm_resnet50_gn", planes=(32, 32, 64, 128)),
]
