"""Cases of PSPNet."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "pspnet_r50_d8",
        mmseg("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_pspnet_r18_pool124", pool_scales=(1, 2, 4)),
        channels=16,
        aux_channels=8,
    )
]
