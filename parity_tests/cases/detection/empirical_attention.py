"""Small configurations of detectors with generalised attention."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        f"faster_rcnn_r50_{name}_fpn",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=mmdet_outputs(f"faster-rcnn_r50-{name.replace('_', '-')}_fpn_1x_coco", BOXES),
        without=SAME_GRAPH,
    )
    for name in ("attn0010", "attn0010_dcn", "attn1111_dcn")
]
