"""A small configuration of PointRend."""

from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import mmdet_outputs
from parity_tests.harness.case import Case, images

SMALL = SMALL_MASKS | {"points": 12, "subdivisions": 3, "subdivision_points": 60}

CASES = [
    Case(
        "point_rend_r50_caffe_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL,
        references=mmdet_outputs("point-rend_r50-caffe_fpn_ms-1x_coco", MASKS),
    ),
]
