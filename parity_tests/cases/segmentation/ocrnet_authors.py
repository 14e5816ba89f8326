"""A small configuration of HRNet with OCR as its authors have it."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.cases.segmentation.ocrnet import SMALL_HRNET
from parity_tests.harness.case import Case, Reference, images

CASES = [
    Case(
        "hrnet_w48_ocr",
        images(65, 98),
        label_maps(65, 98),
        {**SMALL_HRNET, "channels": 16, "ocr_channels": 8, "dropout": 0.0},
        references=[
            Reference(
                "hrnet_ocr_w48",
                {"dropout": 0.0},
                modules={name: name for name in ("layer1", "conv3x3_ocr", "ocr_distri_head")},
                outputs={"out": "logits", "aux": "aux_logits"},
                inputs={"image": "images"},
                losses={"total": "total"},
                targets=grid_labels,
                # these weights saturate the attention, and the gradient of its softmax cancels: what is left in
                # float32 is rounding, 0.28 of a norm in TensorFlow and 5e-4 in PyTorch; in float64 both are within 9e-5
                gradient_bound=0.3,
            )
        ],
    ),
]
