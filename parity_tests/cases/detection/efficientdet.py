"""Small configurations of EfficientDet."""

import numpy as np

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.harness.case import Case, Reference, images

SMALL = {
    "width": 0.25,
    "depth": 1.0,
    # every kind of block of the backbone once
    "stages": ((1, 3, 1, 16, 1), (6, 3, 2, 24, 1), (6, 5, 2, 40, 2), (6, 3, 2, 80, 1), (6, 5, 2, 192, 1)),
    "drop_path": 0.0,
    "fpn_channels": 8,
    "fpn_cells": 2,
    "repeats": 2,
    "num_classes": 3,
}
FEW = {"candidates": 100, "detections": 10}


def reference(model: str, factor: float) -> Reference:
    """effdet's maps, outputs, losses and gradients."""
    maps = {f"backbone.{i}": f"backbone.blocks.{stage}" for i, stage in enumerate((2, 4, 6))}
    nodes = {f"backbone.{i + 5}": f"fpn.cell.0.fnode.{i}" for i in range(8)}
    return Reference(
        f"effdet_{model}",
        modules=maps | nodes | {f"fpn.{i}": f"fpn@{i}" for i in range(5)},
        outputs={f"{key}.{i}": f"{key}_p{i + 3}" for key in ("class", "box") for i in range(5)},
        inputs={"image": "images"},
        given={"images": scaled_image(f"effdet_{model}", factor)},
        losses={"loss": "total", "class_loss": "class_loss", "box_loss": "box_loss"},
        targets=one_less,
        weights=even,
    )


def one_less(expected):
    """The file's objects, whose classes begin at 1."""
    targets = stored_objects(expected)
    return {**targets, "labels": np.where(targets["valid"], targets["labels"] - 1, 0)}


def even(values):
    """The pyramid's weights as they are before training: seeded ones would shut whole nodes."""
    return {name: np.ones_like(x) if name.endswith("edge_weights") else x for name, x in values.items()}


CASES = [
    Case(
        "tf_efficientdet_d0",
        images(128, 256),
        objects(128, 256, 3),
        SMALL,
        postprocess=FEW,
        references=[reference("tf_efficientdet_d0", 3000)],
    ),
    Case(
        "efficientdet_d0",
        images(128, 256),
        objects(128, 256, 3),
        SMALL,
        postprocess={**FEW, "soft": True},
        references=[reference("efficientdet_d0", 3000)],
    ),
]
