"""Cases of EMANet."""

from parity_tests.cases.segmentation import grid_labels, label_maps, mmseg, segmenter
from parity_tests.harness.case import Case, Reference, images

CASES = [
    segmenter(
        "emanet_r50_d8",
        mmseg("emanet_r50-d8_4xb2-80k_cityscapes-512x1024"),
        mmseg("mmseg_emanet_r18_b16s2", ema_channels=48, num_bases=16, num_stages=2),
        channels=8,
        aux_channels=8,
        ema_channels=16,
        num_bases=6,
    ),
    Case(
        "emanet_resnet50",
        images(65, 49),
        label_maps(65, 49),
        {
            "layers": (1, 1, 1, 3),
            "planes": (8, 16, 24, 32),
            "num_classes": 5,
            "ema_channels": 16,
            "num_bases": 6,
            "channels": 8,
            "dropout": 0.0,
        },
        references=[
            Reference(
                "emanet_official_r50",
                {"dropout": 0.0},
                modules={name: name for name in ("extractor", "fc0", "emau")},
                outputs={"out": "logits", "mu": "bases"},
                inputs={"image": "images"},
                losses={"ce": "ce"},
                targets=grid_labels,
            )
        ],
    ),
]
