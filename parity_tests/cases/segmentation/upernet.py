"""Cases of UPerNet."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "upernet_r50",
        mmseg("upernet_r50_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_upernet_r18_pool135", pool_scales=(1, 3, 5)),
        size=(97, 65),
        channels=16,
        aux_channels=8,
    )
]
