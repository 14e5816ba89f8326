"""Cases of PSANet."""

from parity_tests.cases.segmentation import mmseg, segmenter

OWN = {"num_classes": 5}

CASES = [
    segmenter(
        "psanet_r50_d8",
        mmseg("psanet_r50-d8_4xb2-40k_cityscapes-512x1024"),
        mmseg("mmseg_psanet_r18_bi_nosoftmax", mask_size=(9, 13), psa_softmax=False, normalization_factor=40, **OWN),
        mmseg("mmseg_psanet_r18_collect_8x6", psa_type="collect", mask_size=(8, 6), **OWN),
        mmseg("mmseg_psanet_r18_distribute_21x15", psa_type="distribute", mask_size=(21, 15), shrink_factor=1),
        size=(40, 56),
        channels=8,
        aux_channels=8,
        mask_size=(7, 6),
    ),
    segmenter(
        "psanet_r50_d8",
        size=(64, 49),
        variant="compact",
        channels=8,
        aux_channels=8,
        mask_size=(4, 3),
        compact=True,
    ),
]
