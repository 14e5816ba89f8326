"""Targets of detectors."""

import numpy as np


def objects(height: int, width: int, classes: int, most: int = 5, first: int = 0):
    """Target maker: boxes of many sizes, the last slots empty, one image of three without any object.

    Args:
        height, width: of the image, in pixels.
        classes: number of classes.
        most: slots M of each image.
        first: smallest class that occurs.
    """

    def make(rng, batch):
        size = np.stack([width, height] * rng.uniform(0.1, 0.8, (batch, most, 2)), 0)
        corner = rng.uniform(0, 1, (batch, most, 2)) * ([width, height] - size)
        valid = np.arange(most) < most - 1 - np.arange(batch)[:, None] % 3
        if batch > 2:
            valid[-1] = False
        boxes = np.concatenate([corner, corner + size], -1)
        return {
            "boxes": np.where(valid[..., None], boxes, 7.0),
            "labels": np.where(valid, rng.integers(first, classes, (batch, most)), first),
            "valid": valid,
        }

    return make


def stored_objects(expected):
    """The targets ``box0``, ``label0``, ``box1``, ... of a fingerprint as padded rows."""
    found = []
    while f"box{len(found)}" in expected["inputs"]:
        i = len(found)
        boxes, labels = (np.asarray(expected["inputs"][f"{key}{i}"]["data"]) for key in ("box", "label"))
        found.append((boxes.reshape(-1, 4), labels.astype(np.int64)))
    return padded(found)


def padded(objects):
    """Boxes and labels of every image as the targets of a criterion."""
    batch, most = len(objects), max(len(labels) for _, labels in objects)
    targets = {
        "boxes": np.zeros((batch, most, 4)),
        "labels": np.zeros((batch, most), np.int64),
        "valid": np.zeros((batch, most), bool),
    }
    for i, (boxes, labels) in enumerate(objects):
        for key, value in (("boxes", boxes), ("labels", labels), ("valid", True)):
            targets[key][i, : len(labels)] = value
    return targets
