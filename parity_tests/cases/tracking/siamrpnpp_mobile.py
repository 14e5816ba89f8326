"""A small configuration of SiamRPN++ on MobileNetV2."""

from parity_tests.cases.tracking._common import labels, pair, reference
from parity_tests.cases.tracking.siamrpnpp import MAPS
from parity_tests.harness.case import SAME_GRAPH, Case

CASES = [
    Case(
        "siamrpn_mobilev2_l234_dwxcorr",
        pair(103, 175, 183),
        labels(15, 16),
        {"width": 0.25, "channels": (6, 8, 10)},
        references=[reference("pysot_siamrpn_mobilev2_l234_dwxcorr", MAPS)],
        without=SAME_GRAPH,
    ),
]
