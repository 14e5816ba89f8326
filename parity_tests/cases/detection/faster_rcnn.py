"""Small configurations of Faster R-CNN."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs, torchvision
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "fasterrcnn_resnet50_fpn",
        images(97, 81),
        objects(97, 81, 4, first=1),
        SMALL,
        postprocess=FEW,
        references=[torchvision("torchvision_fasterrcnn_resnet50_fpn")],
    ),
    Case(
        "faster_rcnn_r50_fpn",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=mmdet_outputs("faster-rcnn_r50_fpn_1x_coco", BOXES),
    ),
]
