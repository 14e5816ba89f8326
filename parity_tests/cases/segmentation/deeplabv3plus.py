"""Cases of DeepLabv3+."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "deeplabv3plus_r50_d8",
        mmseg("deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_deeplabv3plus_r18_d8", c1_channels=12, rates=(1, 6, 12, 18)),
        channels=16,
        aux_channels=8,
        c1_channels=6,
    )
]
