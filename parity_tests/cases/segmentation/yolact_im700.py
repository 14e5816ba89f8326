"""A small configuration of YOLACT-700."""

from parity_tests.cases.segmentation.yolact import PRIORS, SMALL, crowded, yolact
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "yolact_im700",
        images(96, 90),
        crowded(96, 90, 3),
        SMALL,
        criterion={**PRIORS, "max_masks": 12},
        postprocess={**PRIORS, "candidates": 40, "detections": 10},
        references=[yolact("yolact_im700")],
        without=SAME_GRAPH,
    ),
]
