"""Small configurations of RepPoints with a grid of points."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        model,
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess=FEW,
        without=without,
    )
    for model, without in (
        ("reppoints_bbox_r50_fpn_gn_grid", {}),
        ("reppoints_bbox_r50_center_fpn_gn_grid", SAME_GRAPH),
    )
]
