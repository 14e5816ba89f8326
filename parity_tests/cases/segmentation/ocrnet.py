"""Cases of OCRNet."""

import dataclasses

from parity_tests.cases.segmentation import label_maps, mmseg, segmenter
from parity_tests.harness.case import Case, images

TERMS = {name: name for name in ("decode_0.loss_ce", "decode_1.loss_ce")}
SMALL_HRNET = {"width": 4, "modules": (1, 1, 1), "depth": 1, "stage1": (1, 8), "num_classes": 5}


def ocr(file: str, heads: str, **options):
    return mmseg(file, {f"{heads}.0": "aux_logits", f"{heads}.1": "logits"}, TERMS, maps="_r" in file, **options)


CASES = [
    Case(
        "ocrnet_hr18",
        images(65, 98),
        label_maps(65, 98),
        {**SMALL_HRNET, "channels": 16, "ocr_channels": 8},
        references=[
            # these weights saturate the attention, and the gradient of its softmax cancels: what is left in float32 is
            # rounding, 0.13 of a norm in TensorFlow and 4e-4 in PyTorch; in float64 both give the file's norms to 3e-4
            dataclasses.replace(ocr("ocrnet_hr18_4xb2-40k_cityscapes-512x1024", "decode_head"), gradient_bound=0.2),
            ocr("mmseg_ocrnet_hr18s", "decode", modules=(1, 3, 2), depth=2, stage1=(2, 64), num_classes=7),
        ],
    ),
    segmenter(
        "ocrnet_r50_d8",
        ocr("ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024", "decode_head", depth=101),
        channels=16,
        aux_channels=8,
        ocr_channels=8,
    ),
]
