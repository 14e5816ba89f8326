"""Small configurations of detectors with global context blocks."""

from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        f"mask_rcnn_r50_gcb_{ratio}_c3_c5_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        references=mmdet_outputs(f"mask-rcnn_r50-gcb-{ratio}-c3-c5_fpn_1x_coco", MASKS),
        without=SAME_GRAPH,
    )
    for ratio in ("r16", "r4")
]
