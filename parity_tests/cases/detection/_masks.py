"""Targets, small configurations and references of detectors with masks."""

import numpy as np

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.cases.detection._two_stage import BOXES, FEW, SMALL, stored_proposals

SMALL_MASKS = {
    **{key: value for key, value in SMALL.items()},
    "mask_channels": 8,
    "pairs": FEW["candidates"],
    "detections": FEW["detections"],
}


def ellipses(boxes, valid, height: int, width: int):
    """Masks of ellipses that fill boxes.  (N, M, 4) -> (N, M, H, W), 0 or 1."""
    x1, y1, x2, y2 = (side[..., None, None] for side in np.moveaxis(boxes, -1, 0))
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    across, down = (2 * x - x1 - x2) / np.maximum(x2 - x1, 1e-6), (2 * y - y1 - y2) / np.maximum(y2 - y1, 1e-6)
    return ((across**2 + down**2 <= 1) & valid[..., None, None]).astype(np.float64)


def masked_objects(height: int, width: int, classes: int, **options):
    """Target maker of :func:`objects` with masks."""
    make = objects(height, width, classes, **options)

    def masked(rng, batch):
        found = make(rng, batch)
        return {**found, "masks": ellipses(found["boxes"], found["valid"], height, width)}

    return masked


def stored_masks(expected):
    """The targets of a fingerprint of torchvision's."""
    found = stored_proposals(expected)
    return {**found, "masks": ellipses(found["boxes"], found["valid"], *expected["inputs"]["image"]["shape"][2:])}


def losses_masks(expected):
    """The targets of a fingerprint's losses."""
    found = losses_objects(expected)
    return {**found, "masks": ellipses(found["boxes"], found["valid"], *expected["loss"]["size"])}


def golden_points(count: int, points: int, counts):
    """The references' replacement of random points, row by row of the positive proposals, as padded rows."""
    rows = np.arange(sum(counts) * points * 2, dtype=np.float64) * 0.6180339887498949
    rows = (rows - np.floor(rows)).reshape(-1, points, 2)
    padded = np.zeros((len(counts), count, points, 2))
    for i, number in enumerate(counts):
        padded[i, :number], rows = rows[:number], rows[number:]
    return padded


MASKS = BOXES | {
    "roi_head.mask_roi_extractor": "roi_head.mask_roi_extractor",
    "roi_head.mask_head": "roi_head.mask_head",
}
