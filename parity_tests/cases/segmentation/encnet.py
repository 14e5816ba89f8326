"""Cases of EncNet."""

from parity_tests.cases.segmentation import mmseg, segmenter

TERMS = ("decode.loss_ce", "decode.loss_se", "aux.loss_ce")

CASES = [
    segmenter(
        "encnet_r50_d8",
        mmseg(
            "encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
            {"decode_head.0": "logits", "decode_head.1": "se_logits", "auxiliary_head": "aux_logits"},
            dict(zip(TERMS, TERMS)),
        ),
        mmseg(
            "mmseg_encnet_r18_lateral_codes8",
            {"decode.0": "logits", "decode.1": "se_logits", "aux": "aux_logits"},
            dict(zip(TERMS, TERMS)),
            add_lateral=True,
            num_codes=8,
        ),
        channels=16,
        aux_channels=8,
        num_codes=4,
        add_lateral=True,
    )
]
