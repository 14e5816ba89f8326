"""Cases of res2net."""

from parity_tests.cases.classification._common import resnet

CASES = [
    resnet("res2net50_26w_4s", "timm_res2net50_26w_4s", loss=True, layers=(1, 2, 1, 1)),
    resnet(
        "res2net50_26w_4s",
        "timm_res2net50_26w_4s_1211",
        variant="zero_init_residual",
        training=True,
        published={"layers": (1, 2, 1, 1)},
        zero_init_residual=True,
        norm_eval=True,
        frozen_stages=1,
    ),
    resnet("res2net50_14w_8s", "timm_res2net50_14w_8s", layers=(2, 1, 1, 1), base_width=16, scale=3),
    resnet("res2net50_v1b", "timm_res2net50d", layers=(1, 1, 2, 1), deep_stem=(8, 8, 16), output_stride=16),
    resnet("res2next50", "timm_res2next50", layers=(1, 2, 1, 1), base_width=8, groups=4, scale=2),
]
