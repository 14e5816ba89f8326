"""A small configuration of Faster R-CNN with Soft-NMS."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import BOXES, SMALL, mmdet_outputs
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "faster_rcnn_r50_fpn_soft_nms",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess={"candidates": 12, "detections": 3},
        references=mmdet_outputs("faster-rcnn_r50_fpn_1x_coco", BOXES),
    ),
]
