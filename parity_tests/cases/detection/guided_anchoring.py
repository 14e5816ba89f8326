"""Small configurations of guided anchoring, in Faster R-CNN, alone, and in RetinaNet."""

import dataclasses

from parity_tests.cases.detection import _mmdet as dense
from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, mmdet_outputs
from parity_tests.harness.case import SAME_GRAPH, Case, images


def references(file: str):
    """mmdet's maps and outputs, with the names of the convolutions of guided anchors."""
    (plain,) = mmdet_outputs(file, BOXES)
    names = ("conv_cls", "conv_reg", "conv_shape", "conv_loc")
    modules = {f"rpn_head.{k}.{i}": f"rpn_head.{name}#{i}" for k, name in enumerate(names) for i in range(5)}
    for square in ("rpn_head.1.3", "rpn_head.2.4"):  # as many channels as rows and columns: which is which is not said
        del modules[square]
    modules = {key: path for key, path in plain.modules.items() if not key.startswith("rpn_head")} | modules
    return [dataclasses.replace(plain, modules=modules)]


RPN = {key: SMALL[key] for key in ("layers", "planes", "out_channels", "candidates", "proposals")}
KEYS = ("cls", "reg", "shape", "loc")

CASES = [
    Case(
        "ga_faster_rcnn_r50_caffe_fpn",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=references("ga-faster-rcnn_r50-caffe_fpn_1x_coco"),
        without=SAME_GRAPH,
    ),
    Case(
        "ga_rpn_r50_caffe_fpn",
        images(97, 81),
        objects(97, 81, 4),
        RPN,
        without=SAME_GRAPH | {"reference": "no file of it; the first stage is that of ga_faster_rcnn_r50_caffe_fpn"},
    ),
    Case(
        "ga_retinanet_r50_caffe_fpn",
        images(65, 97),
        objects(65, 97, 4),
        dense.SMALL,
        postprocess=dense.FEW,
        references=[
            dense.mmdet(
                "ga-retinanet_r50-caffe_fpn_1x_coco",
                KEYS,
                {f"{key}.": key for key in ("loss_cls", "loss_bbox", "loss_shape", "loss_loc")},
                criterion={"inverted": True},
            )
        ],
    ),
]
