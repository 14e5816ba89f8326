"""Cases of DeepLabv3."""

from dataclasses import replace

from parity_tests.cases.segmentation import mmseg, segmenter

OHEM = {"min_kept": 500, "threshold": 0.7}
MG124 = {"output_stride": 16, "multi_grid": (1, 2, 4), "rates": (1, 6, 12, 18)}

CASES = [
    segmenter(
        "deeplabv3_r50_d8",
        mmseg("deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024"),
        channels=16,
        aux_channels=8,
    ),
    segmenter(
        "deeplabv3_r101_d16_mg124",
        replace(
            mmseg("mmseg_deeplabv3_r50_d16_mg124_ohem", depth=50, num_classes=9, **MG124),
            criterion=OHEM,
        ),
        criterion={"min_kept": 300},
        layers=(1, 1, 1, 3),
        channels=16,
        aux_channels=8,
    ),
]
