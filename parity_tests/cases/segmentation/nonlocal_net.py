"""Cases of non-local networks."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "nonlocal_r50_d8",
        mmseg("nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_nonlocal_r18_concat", mode="concatenation", losses={}),
        mmseg("mmseg_nonlocal_r18_dot", mode="dot_product"),
        mmseg("mmseg_nonlocal_r18_gaussian", mode="gaussian"),
        mmseg("mmseg_nonlocal_r18_noscale_red4", use_scale=False, reduction=4),
        channels=16,
        aux_channels=8,
    ),
]
