"""A small configuration of SOLOv2 whose trunk has groups and deformable convolutions."""

from parity_tests.cases.segmentation._instances import FEW, RANGES, SMALL, instances
from parity_tests.cases.segmentation.solov2 import COUNTED
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "solov2_x101_dcn_fpn",
        images(64, 96),
        instances(64, 96, 4),
        {**SMALL, "mask_channels": 8, "mask_out_channels": 12, "groups": 2, "base_width": 32},
        criterion={"ranges": RANGES},
        postprocess={**FEW, "score_threshold": 0.01, "filter_threshold": 0.0},
        without={"results": SAME_GRAPH["results"], **COUNTED},
    ),
]
