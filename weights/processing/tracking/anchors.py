"""Anchors of the Siamese trackers of pysot, and which of them are the object in training.

Numbers: STVIR/pysot ``utils/anchor.py``, ``datasets/anchor_target.py`` (Apache-2.0).
"""

import numpy as np

__all__ = ["anchor_sizes", "anchor_targets", "overlaps", "tracking_anchors", "training_anchors"]

STRIDE, SCALE = 8, 8
RATIOS = (0.33, 0.5, 1.0, 2.0, 3.0)
POSITIVE, NEGATIVE = 0.6, 0.3  # lower bound of overlaps with the object, upper bound of those without
SHARE, ALL = 16, 64  # numbers of positive anchors, and of all that count


def anchor_sizes() -> np.ndarray:
    """Width and height of the five anchors of a cell, (5, 2) pixels; both are cut to whole numbers before scaling."""
    widths = np.array([int((STRIDE * STRIDE / ratio) ** 0.5) for ratio in RATIOS])
    heights = np.array([int(width * ratio) for width, ratio in zip(widths, RATIOS)])
    return np.stack([widths, heights], 1) * SCALE


def tracking_anchors(size: int) -> np.ndarray:
    """Anchors of a score map around the middle of the crop: (5 * size * size, 4), centre and size; anchor by anchor."""
    place = STRIDE * (np.arange(size) - size // 2)
    return _grid(place).transpose(0, 2, 3, 1).reshape(-1, 4)


def training_anchors(size: int, search: int = 255) -> np.ndarray:
    """Anchors of a score map in the pixels of the crop: (5, 4, size, size), centre and size."""
    return _grid(STRIDE * np.arange(size) + search // 2 - size // 2 * STRIDE)


def _grid(place: np.ndarray) -> np.ndarray:
    size = len(place)
    y, x = np.meshgrid(place, place, indexing="ij")
    sizes = anchor_sizes().astype(np.float64)
    centres = np.tile(np.stack([x, y]).astype(np.float64), (len(sizes), 1, 1, 1))
    return np.concatenate([centres, np.tile(sizes[..., None, None], (1, 1, size, size))], 1)


def overlaps(anchors: np.ndarray, box: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) by centre and size with one box (4,)."""
    first = np.maximum(anchors[..., :2] - anchors[..., 2:] / 2, box[:2] - box[2:] / 2)
    last = np.minimum(anchors[..., :2] + anchors[..., 2:] / 2, box[:2] + box[2:] / 2)
    shared = np.maximum(last - first, 0).prod(-1)
    return shared / (anchors[..., 2:].prod(-1) + box[2:].prod() - shared)


def _chosen(mask: np.ndarray, priorities: np.ndarray, most: int) -> np.ndarray:
    """At most this many of the cells of a mask, those with the highest priorities."""
    rank = np.where(mask, priorities, -1.0).ravel()
    kept = np.zeros(mask.size, bool)
    kept[np.argsort(-rank, kind="stable")[: min(most, int(mask.sum()))]] = True
    return kept.reshape(mask.shape)


def anchor_targets(
    box: np.ndarray, size: int, priorities: np.ndarray, negative_pair: bool = False
) -> dict[str, np.ndarray]:
    """Labels of the anchors for one pair of template and frame.

    Args:
        box: (4,) centre and size of the object, pixels of the crop.
        size: of the score map.
        priorities: (5, size, size) random numbers in [0, 1): which of the eligible anchors count.
        negative_pair: the object is not the template's: anchors near it are negative, others are ignored.

    Returns:
        ``"label_cls"`` (5, size, size) int64, 1 object, 0 background, -1 ignored; ``"label_loc"`` (4, 5, size, size);
        ``"label_loc_weight"`` (5, size, size).
    """
    anchors = np.moveaxis(training_anchors(size), 1, -1)  # (5, size, size, 4)
    labels = np.full(anchors.shape[:3], -1, np.int64)
    zeros = np.zeros(anchors.shape[:3])
    if negative_pair:
        column, row = (size // 2 + int(np.ceil((n - 127) / STRIDE + 0.5)) for n in box[:2])
        near = np.zeros(labels.shape, bool)
        near[:, max(0, row - 3) : min(size, row + 4), max(0, column - 3) : min(size, column + 4)] = True
        labels[_chosen(near, priorities, SHARE)] = 0
        return {"label_cls": labels, "label_loc": np.zeros((4, *labels.shape)), "label_loc_weight": zeros}
    shared = overlaps(anchors, box)
    positive = _chosen(shared > POSITIVE, priorities, SHARE)
    labels[positive] = 1
    labels[_chosen(shared < NEGATIVE, priorities, ALL - SHARE)] = 0
    deltas = np.concatenate([(box[:2] - anchors[..., :2]) / anchors[..., 2:], np.log(box[2:] / anchors[..., 2:])], -1)
    weight = positive / (positive.sum() + 1e-6)
    return {"label_cls": labels, "label_loc": np.moveaxis(deltas, -1, 0), "label_loc_weight": weight}
