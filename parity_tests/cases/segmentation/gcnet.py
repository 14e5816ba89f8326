"""Cases of GCNet."""

from parity_tests.cases.segmentation import mmseg, segmenter

CASES = [
    segmenter(
        "gcnet_r50_d8",
        mmseg("gcnet_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_gcnet_r18_addmul_ratio8", ratio=1 / 8, fusion_types=("channel_add", "channel_mul")),
        mmseg("mmseg_gcnet_r18_avg_mul", pooling_type="avg", fusion_types=("channel_mul",)),
        channels=16,
        aux_channels=8,
    )
]
