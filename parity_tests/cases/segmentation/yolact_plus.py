"""A small configuration of YOLACT++."""

from parity_tests.cases.segmentation.yolact import SMALL, crowded, yolact
from parity_tests.harness.case import Case, images

PRIORS = {"scales": ((5, 6), (9, 10), (14, 15), (19, 20), (24, 25)), "max_size": 96}

CASES = [
    Case(
        "yolact_plus_resnet50",
        images(96, 90),
        crowded(96, 90, 3, most=3),
        {
            **SMALL,
            **PRIORS,
            "layers": (1, 2, 1, 1),
            "interval": 2,
            "num_priors": 6,
            "iou_channels": (4, 8),
            "max_masks": 12,
            "score_threshold": 0.3,
            "candidates": 40,
            "detections": 10,
        },
        criterion={**PRIORS, "max_masks": 12, "least_area": 5},
        references=[yolact("yolact_plus_resnet50", losses={key: key for key in "BMCIS"})],
    ),
]
