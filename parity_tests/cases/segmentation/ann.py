"""Cases of ANN."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "ann_r50_d8",
        mmseg("ann_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_ann_r18_pool124", project_channels=32, key_pool_scales=(1, 2, 4)),
        channels=16,
        aux_channels=8,
        project_channels=8,
        key_pool_scales=(1, 3, 4),
    )
]
