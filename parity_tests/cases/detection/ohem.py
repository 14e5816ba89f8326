"""A small configuration of Faster R-CNN with OHEM."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "faster_rcnn_r50_fpn_ohem",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=mmdet_outputs("faster-rcnn_r50_fpn_ohem_1x_coco", BOXES),
        without=SAME_GRAPH,
    ),
]
