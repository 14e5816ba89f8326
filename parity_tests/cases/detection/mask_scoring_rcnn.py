"""Small configurations of Mask Scoring R-CNN."""

from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

SCORES = {"roi_head.mask_iou_head": "roi_head.mask_iou_head"}

CASES = [
    Case(
        "ms_rcnn_r50_caffe_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        references=mmdet_outputs("ms-rcnn_r50-caffe_fpn_1x_coco", MASKS | SCORES),
        without=SAME_GRAPH,
    ),
]
