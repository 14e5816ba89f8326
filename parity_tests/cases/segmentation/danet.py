"""Cases of DANet."""

from parity_tests.cases.segmentation import mmseg, segmenter

TERMS = ("decode.pam_cam.loss_ce", "decode.pam.loss_ce", "decode.cam.loss_ce", "aux.loss_ce")


def heads(name: str, auxiliary: str):
    found = {f"{name}.{i}": key for i, key in enumerate(("logits", "pam_logits", "cam_logits"))}
    return {**found, auxiliary: "aux_logits"}


CASES = [
    segmenter(
        "danet_r50_d8",
        mmseg(
            "danet_r50-d8_4xb2-40k_cityscapes-512x1024",
            heads("decode_head", "auxiliary_head"),
            dict(zip(TERMS, TERMS)),
        ),
        mmseg("mmseg_danet_r18_pam16", heads("decode", "aux"), dict(zip(TERMS, TERMS)), pam_channels=16),
        channels=16,
        aux_channels=8,
        pam_channels=4,
    )
]
