"""Small configurations of detectors with group normalisation, without and with standardised kernels."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

GROUPS = {"norm_groups": 4, "conv_channels": 8}
STANDARDISED = {
    "bound": 1e-3,
    "reason": "standardised kernels amplify rounding: the reference with other kernels is 1.4e-4 off itself",
}

CASES = [
    Case(
        "mask_rcnn_r50_fpn_gn_all",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS | GROUPS,
        references=mmdet_outputs("mask-rcnn_r50_fpn_gn-all_2x_coco", MASKS),
        without=SAME_GRAPH,
    ),
    Case(
        "mask_rcnn_r50_fpn_gn_ws_all",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS | GROUPS,
        references=mmdet_outputs("mask-rcnn_r50_fpn_gn-ws-all_2x_coco", MASKS, **STANDARDISED),
        without=SAME_GRAPH,
    ),
    Case(
        "faster_rcnn_r50_fpn_gn_ws_all",
        images(97, 81),
        objects(97, 81, 4),
        SMALL | GROUPS,
        postprocess=FEW,
        references=mmdet_outputs("faster-rcnn_r50_fpn_gn-ws-all_1x_coco", BOXES, **STANDARDISED),
        without=SAME_GRAPH,
    ),
]
