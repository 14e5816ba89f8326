"""Small configurations and references that detectors of two stages share."""

import numpy as np

from parity_tests.cases.detection import stored_objects
from parity_tests.harness.case import Reference

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 8, 16, 16),
    "num_classes": 4,
    "out_channels": 16,
    "units": 24,
    "candidates": (40, 20),
    "proposals": (30, 12),
    "samples": 16,
}
FEW = {"candidates": 40, "detections": 10}
LOSSES = {f"loss_rpn_{key}.{i}": f"loss_rpn_{key}" for key in ("cls", "bbox") for i in range(5)}
ONE_BOX = {"loss_cls": "loss_cls", "loss_bbox": "loss_bbox"}


def stored_proposals(expected):
    """Proposals and objects of a fingerprint of torchvision's; its proposals are the same in number by rows of 0."""
    rows = [np.asarray(expected["inputs"][f"proposals{i}"]["data"]).reshape(-1, 4) for i in range(2)]
    most = max(map(len, rows))
    padded = np.stack([np.pad(boxes, ((0, most - len(boxes)), (0, 0))) for boxes in rows])
    return {**stored_objects(expected), "proposals": padded}


def torchvision(file: str, **options) -> Reference:
    """torchvision's maps, losses and gradients; the outputs of given proposals are compared in test_two_stage.py."""
    losses = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    return Reference(
        file,
        modules={f"backbone.body.{i}": f"backbone.body.layer{i + 1}" for i in range(4)}
        | {f"backbone.fpn.{i}": f"backbone.fpn.layer_blocks.{i}" for i in range(4)}
        | {f"rpn.objectness.{i}": f"rpn.head.cls_logits#{i}" for i in range(5)}
        | {f"rpn.bbox_deltas.{i}": f"rpn.head.bbox_pred#{i}" for i in range(5)},
        inputs={"image": "images"},
        losses={**{key: key for key in losses}, **options.pop("losses", {})},
        targets=options.pop("targets", stored_proposals),
        **options,
    )


BOXES = {
    "roi_head.bbox_roi_extractor": "roi_head.bbox_roi_extractor",
    "roi_head.bbox_head.0": "roi_head.bbox_head@0",
    "roi_head.bbox_head.1": "roi_head.bbox_head@1",
}


def mmdet_outputs(file: str, modules: dict[str, str], **options) -> list[Reference]:
    """mmdet's maps and outputs of given proposals; its losses, of hundreds of boxes, are in test_two_stage.py.

    Args:
        file: the fingerprint.
        modules: of :class:`Reference`, besides those that all have.
        options: of :class:`Reference`.
    """
    return [
        Reference(
            file,
            modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
            | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(4)}
            | {f"rpn_head.0.{i}": f"rpn_head.rpn_cls#{i}" for i in range(5)}
            | {f"rpn_head.1.{i}": f"rpn_head.rpn_reg#{i}" for i in range(5)}
            | modules,
            inputs={"input": "images", "proposals": "proposals"},
            **options,
        )
    ]
