"""A small configuration of Faster R-CNN with path aggregation."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import FEW, SMALL
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "faster_rcnn_r50_pafpn",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        without=SAME_GRAPH | {"reference": "no file of it; its parameters are counted at the published size"},
    ),
]
