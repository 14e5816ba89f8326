"""Small configurations of Cascade R-CNN, without and with masks."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._masks import SMALL_MASKS, masked_objects
from parity_tests.cases.detection._two_stage import FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images

STAGES = {
    f"roi_head.bbox_head.{i}.{output}": f"roi_head.bbox_head.{i}@{output}" for i in range(3) for output in range(2)
}
MASKS = {f"roi_head.mask_head.{i}": f"roi_head.mask_head.{i}" for i in range(3)}

CASES = [
    Case(
        "cascade_rcnn_r50_fpn",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=mmdet_outputs("cascade-rcnn_r50_fpn_1x_coco", STAGES),
        without=SAME_GRAPH,
    ),
    Case(
        "cascade_mask_rcnn_r50_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        references=mmdet_outputs("cascade-mask-rcnn_r50_fpn_1x_coco", STAGES | MASKS),
        without=SAME_GRAPH,
    ),
]
