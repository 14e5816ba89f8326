"""Small configurations of Mask R-CNN."""

from parity_tests.cases.detection._masks import MASKS, SMALL_MASKS, masked_objects, stored_masks
from parity_tests.cases.detection._two_stage import mmdet_outputs, torchvision
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "maskrcnn_resnet50_fpn",
        images(97, 81),
        masked_objects(97, 81, 4, first=1),
        SMALL_MASKS,
        references=[
            torchvision("torchvision_maskrcnn_resnet50_fpn", losses={"loss_mask": "loss_mask"}, targets=stored_masks)
        ],
        without=SAME_GRAPH,
    ),
    Case(
        "mask_rcnn_r50_fpn",
        images(97, 81),
        masked_objects(97, 81, 4),
        SMALL_MASKS,
        references=mmdet_outputs("mask-rcnn_r50_fpn_1x_coco", MASKS),
        bounds={"onnx": (3e-5, "masks are sampled inside boxes that every file rounds in its own way")},
    ),
]
