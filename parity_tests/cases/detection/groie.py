"""Small configurations of detectors with generic RoI extraction."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

HEADS = {"num_heads": 3}  # of 16 channels: one is left over

CASES = [
    Case(
        "faster_rcnn_r50_fpn_groie",
        images(97, 81),
        objects(97, 81, 4),
        SMALL | HEADS,
        postprocess=FEW,
        references=mmdet_outputs("faste-rcnn_r50_fpn_groie_1x_coco", BOXES),
    ),
    Case(
        "mask_rcnn_r50_fpn_groie",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS | HEADS,
        references=mmdet_outputs("mask-rcnn_r50_fpn_groie_1x_coco", MASKS),
        without=SAME_GRAPH,
    ),
]
