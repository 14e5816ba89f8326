"""Targets of segmenters of instances, and references of mmdet."""

import numpy as np

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.harness.case import Reference

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 8, 16, 16),
    "num_classes": 4,
    "out_channels": 16,
    "channels": 16,
    "num_convs": 1,
    "norm_groups": 4,
    "num_grids": (8, 6, 4, 3, 2),
}
RANGES = ((1, 24), (12, 48), (24, 96), (48, 192), (96, 512))
FEW = {"candidates": 40, "detections": 10}


def ellipses(boxes, height: int, width: int):
    """Masks of the ellipses in boxes (..., 4): pixels whose centre lies inside, (..., H, W)."""
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = (boxes[..., i, None, None] for i in range(4))
    return (((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1).astype(np.uint8)


def instances(height: int, width: int, classes: int, most: int = 5):
    """Target maker: the boxes of :func:`objects` with the ellipses in them."""
    make_objects = objects(height, width, classes, most)

    def make(rng, batch):
        targets = make_objects(rng, batch)
        boxes = np.where(targets["valid"][..., None], targets["boxes"], [0.0, 0.0, 1.0, 1.0])
        masks = ellipses(boxes, height, width) * targets["valid"][..., None, None].astype(np.uint8)
        return {"masks": masks, **targets}

    return make


def losses_instances(expected):
    """The targets of a fingerprint's losses, with masks."""
    targets = losses_objects(expected)
    boxes = np.where(targets["valid"][..., None], targets["boxes"], [0.0, 0.0, 1.0, 1.0])
    masks = ellipses(boxes, *expected["loss"]["size"]) * targets["valid"][..., None, None].astype(np.uint8)
    return {"masks": masks, **targets}


def mmdet_masks(file: str, outputs: dict[str, str], **options) -> Reference:
    """mmdet's maps, outputs, losses and gradients of a head of masks.

    Args:
        file: the fingerprint.
        outputs: fingerprint output -> key.
        options: of :class:`Reference`.
    """
    return Reference(
        file,
        modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
        | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(4)},
        outputs=outputs,
        inputs={"input": "images"},
        losses={"loss_mask": "loss_mask", "loss_cls": "loss_cls"},
        targets=losses_instances,
        **options,
    )
