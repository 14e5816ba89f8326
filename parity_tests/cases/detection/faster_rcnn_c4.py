"""Small configurations of Faster and Mask R-CNN on one map."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._masks import SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import FEW, SMALL
from parity_tests.harness.case import Case, images

PLANES = {"planes": (8, 8, 8, 16)}  # the last stage is given twice its planes
C4 = {key: value for key, value in SMALL.items() if key not in ("out_channels", "units")} | PLANES
C4_MASKS = {key: value for key, value in SMALL_MASKS.items() if key not in ("out_channels", "units")} | PLANES

CASES = [
    Case("faster_rcnn_r50_caffe_c4", images(97, 81), objects(97, 81, 4), C4, postprocess=FEW),
    Case("faster_rcnn_r50_caffe_dc5", images(97, 81), objects(97, 81, 4), {**C4, "units": 24}, postprocess=FEW),
    Case("mask_rcnn_r50_caffe_c4", images(97, 81), masked_objects(97, 81, 4), C4_MASKS),
]
