"""Cases of hrnet."""

from parity_tests.cases.classification._common import hrnet

CASES = [
    hrnet("hrnet_w18_small_v2", "timm_hrnet_w18_small_v2", (32, 64), loss=True, training=True),
    hrnet(
        "hrnet_w18",
        "timm_hrnet_w18",
        (65, 49),
        variant="bilinear",
        fuse_upsample="bilinear_corners",
        norm_eval=True,
        frozen_stages=2,
    ),
]
