"""Small configurations of detectors with CARAFE."""

from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "mask_rcnn_r50_fpn_carafe",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        references=mmdet_outputs("mask-rcnn_r50_fpn-carafe_1x_coco", MASKS),
        without=SAME_GRAPH,
    ),
]
