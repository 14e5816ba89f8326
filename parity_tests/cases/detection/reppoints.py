"""Small configurations of RepPoints."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import FEW, SMALL, mmdet
from parity_tests.harness.case import SAME_GRAPH, Case, images

LOSSES = {f"loss_{key}.": f"loss_{key}" for key in ("cls", "pts_init", "pts_refine")}


def reppoints(model: str, file: str = "", without=None, **options) -> Case:
    return Case(
        model,
        images(65, 97),
        objects(65, 97, 4),
        {**SMALL, **options},
        postprocess=FEW,
        references=[mmdet(file, ("cls", "reg"), LOSSES)] if file else (),
        without=without or {},
    )


CASES = [
    reppoints("reppoints_moment_r50_fpn", "reppoints-moment_r50_fpn_1x_coco"),
    reppoints("reppoints_moment_r50_fpn_gn", "reppoints-moment_r50_fpn-gn_head-gn_1x_coco", norm_groups=4),
    reppoints("reppoints_minmax_r50_fpn_gn", norm_groups=4),
    reppoints("reppoints_partial_minmax_r50_fpn_gn", norm_groups=4, without=SAME_GRAPH),
]
