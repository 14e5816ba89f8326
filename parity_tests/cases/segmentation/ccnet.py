"""Cases of CCNet."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "ccnet_r50_d8",
        mmseg("ccnet_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_ccnet_r18_rec3", recurrence=3, num_classes=9),
        channels=16,
        aux_channels=8,
    )
]
