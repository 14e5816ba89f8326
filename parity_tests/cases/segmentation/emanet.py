"""Cases of EMANet."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "emanet_r50_d8",
        mmseg("emanet_r50-d8_4xb2-80k_cityscapes-512x1024"),
        mmseg("mmseg_emanet_r18_b16s2", ema_channels=48, num_bases=16, num_stages=2),
        channels=8,
        aux_channels=8,
        ema_channels=16,
        num_bases=6,
    )
]
