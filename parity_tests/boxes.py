"""Boxes, anchors and outputs of dense detectors in both panels, and rules of boxes as plain loops."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch

STRIDES = (8, 16, 32, 64, 128)
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def side(package, tensor):
    """The modules of a panel, and how arrays get in and out."""
    names = (
        "boxes.iou boxes.coders boxes.anchors boxes.assignment losses.focal losses.box detection.retinanet layers.rows"
    )
    modules = {name.split(".")[1]: importlib.import_module(f"{package}.{name}") for name in names.split()}
    return SimpleNamespace(
        package=package,
        pyramid=importlib.import_module(f"{package}.necks.fpn"),
        tensor=tensor,
        tensors=lambda arrays: {key: tensor(value) for key, value in arrays.items()},
        arrays=lambda found: {key: np.asarray(value) for key, value in found.items()},
        **modules,
    )


TF, TORCH = side("tf_impl", tf.constant), side("torch_impl", lambda array: torch.from_numpy(np.array(array)))
both = pytest.mark.parametrize("panel", [TF, TORCH], ids=["tensorflow", "pytorch"])


def random_boxes(rng, *shape, extent=100.0):
    corner = rng.uniform(0, 0.8 * extent, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 0.5 * extent, (*shape, 2))], -1)


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def anchors_of(panel, image, rounded):
    """RetinaNet's anchors of all levels by name, for an image whose size is given."""
    found, size = {}, image
    for _ in range(2):
        size = tuple((n + 1) // 2 for n in size)
    for level, stride in zip(LEVELS, STRIDES):
        size = tuple((n + 1) // 2 for n in size)
        sizes = [4 * stride * 2 ** (i / 3) for i in range(3)]
        cell = panel.anchors.cell_anchors([int(s) for s in sizes] if rounded else sizes, (0.5, 1.0, 2.0), rounded)
        steps = tuple(n // m for n, m in zip(image, size)) if rounded else (stride, stride)
        found[f"anchors_{level}"] = panel.anchors.grid_anchors(cell, size, steps)
    return found


def plain_assignment(iou, valid, positive, negative, low_quality, min_positive, zero_matches):
    """The references' rules, one anchor and one ground truth after the other."""
    slots = np.flatnonzero(valid)
    matched = np.full(iou.shape[1], -1)
    if not len(slots):
        return matched
    own = [slots[np.argmax(column[slots])] for column in iou.T]
    for a, m in enumerate(own):
        matched[a] = m if iou[m, a] >= positive else -1 if iou[m, a] < negative else -2
    for m in slots:
        highest = iou[m].max()
        if low_quality is None or highest < min_positive or (highest == 0 and not zero_matches):
            continue
        for a in np.flatnonzero(iou[m] == highest):
            matched[a] = m if low_quality == "forced" else own[a]
    return matched


def outputs_of(panel, logits, deltas, image, rounded, dtype=np.float32):
    anchors = {key: value.astype(dtype) for key, value in anchors_of(panel, image, rounded).items()}
    sizes = {"image_size": np.array(image)}
    return panel.tensors({"cls_logits": logits, "bbox_regression": deltas, **anchors, **sizes})


def losses_of(panel, criterion, outputs, targets):
    found = criterion(outputs, panel.tensors(targets))
    return {key: float(value) for key, value in found.items()}


def scene(classes=5, batch=2, seed=6):
    """Random outputs for a small image, and targets with padding."""
    rng = np.random.default_rng(seed)
    image = (97, 81)
    rows = sum(len(a) for a in anchors_of(TORCH, image, True).values())
    logits, deltas = rng.standard_normal((batch, rows, classes)), 0.3 * rng.standard_normal((batch, rows, 4))
    boxes = random_boxes(rng, batch, 4, extent=80)
    valid = np.arange(4) < np.array([3, 1, 2])[:batch, None]
    targets = {"boxes": boxes, "labels": rng.integers(0, classes, (batch, 4)), "valid": valid}
    return image, logits, deltas, targets


def plain_overlap(a, b):
    return 0.0 if (b[2:] <= b[:2]).any() else plain_iou(a, b)
