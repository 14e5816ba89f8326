"""A small configuration of EfficientDet whose pyramid's weights are seeded: a third is negative and counts as 0."""

from dataclasses import replace

from parity_tests.cases.detection import objects
from parity_tests.cases.detection.efficientdet import FEW, SMALL, reference
from parity_tests.harness.case import SAME_GRAPH, Case, images

EVEN = reference("tf_efficientdet_d0", 3000)

CASES = [
    Case(
        "tf_efficientdet_d0",
        images(128, 128),
        objects(128, 128, 3),
        SMALL,
        postprocess=FEW,
        references=[replace(EVEN, file="effdet_tf_efficientdet_d0_seeded_edges", weights=None)],
        variant="seeded-edges",
        without=SAME_GRAPH,
    ),
]
