"""Targets of PolarMask: which points of the pyramid see which object, and its outline's distance along 36 rays.

"PolarMask: Single Shot Instance Segmentation with Polar Representation", 2019, arXiv:1909.13226. Source:
xieenze/PolarMask ``mmdet/datasets/coco_seg.py`` (Apache-2.0), whose contours are those of OpenCV.
"""

import numpy as np
from scipy import ndimage

__all__ = ["RAYS", "outline", "polar_targets"]

RAYS = 36
STRIDES = (8, 16, 32, 64, 128)
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))  # of the largest distance to a side, in pixels
NOWHERE = 1e8  # area of an object that a point does not see
NEARBY = (0, 1, -1, 2, -2, 3, -3)  # degrees next to a ray where the outline is searched, in this order
MISSED = 1e-6  # length of a ray that finds no outline


def outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outer contour of the largest part of a mask.

    Args:
        mask: (H, W), 0 or 1, with at least one 1.

    Returns:
        centre: (2,) float64, x and y of the middle of the polygon through the contour's pixels, without their
            fractions; of all pixels where the polygon has no area.
        contour: (L, 2) int64, x and y of the contour's pixels, row by row.

    Raises:
        ValueError: if the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask is empty: an object needs at least one pixel")
    parts, count = ndimage.label(ndimage.binary_fill_holes(mask), np.ones((3, 3)))
    found = []
    for part in (parts == i for i in range(1, count + 1)):
        corners = np.stack([part[:-1, :-1], part[:-1, 1:], part[1:, :-1], part[1:, 1:]])
        row, column = np.nonzero(corners.sum(0) >= 3)  # a square between four pixels or a triangle between three
        corners = corners[:, row, column].astype(np.int64)
        doubled = corners.sum(0) - 2  # area of the triangle or the square, twice
        # first moments, six times: whole numbers, because a middle on the border of a pixel must not be rounded down
        x = doubled * 3 * column + np.where(doubled == 2, 3, corners[1] + corners[3])
        y = doubled * 3 * row + np.where(doubled == 2, 3, corners[2] + corners[3])
        found.append((doubled.sum(), x.sum(), y.sum(), part))
    doubled, x, y, part = max(found, key=lambda entry: entry[0])
    contour = np.argwhere(part & ~ndimage.binary_erosion(part))[:, ::-1]
    centre = np.array([x, y]) // (3 * doubled) if doubled else np.trunc(contour.mean(0))
    return centre.astype(np.float64), contour


def _rays(points: np.ndarray, contour: np.ndarray) -> np.ndarray:
    """Distances from points (P, 2) to a contour (L, 2) along the rays, from below towards the right: (P, 36)."""
    x, y = np.moveaxis(contour.astype(np.float32) - points[:, None].astype(np.float32), -1, 0)  # (P, L)
    degrees = np.degrees(np.arctan2(x, y))
    degrees = np.where(degrees < 0, degrees + 360, degrees).astype(np.int64)
    # 0 where there is no pixel; no ray looks across 0 degrees
    furthest = np.zeros((len(points), 360 + 2 * max(NEARBY)))
    np.maximum.at(furthest, (np.arange(len(points))[:, None], degrees + max(NEARBY)), np.hypot(x, y))
    nearby = furthest[:, np.arange(0, 360, 360 // RAYS)[:, None] + max(NEARBY) + np.array(NEARBY)]  # (P, 36, 7)
    first = np.take_along_axis(nearby, (nearby > 0).argmax(-1)[..., None], -1)[..., 0]
    return np.where(first > 0, first, MISSED)


def polar_targets(boxes, labels, masks, sizes, strides=STRIDES, ranges=RANGES, radius: float = 1.5) -> dict:
    """The targets of every point of the pyramid for one image.

    A point sees the smallest object whose box contains it, within ``radius`` strides of its mask's centre, and whose
    farthest side is in the level's range.

    Args:
        boxes: (M, 4) xyxy in pixels.
        labels: (M,) classes, from 0.
        masks: (M, H, W) 0 or 1, none of them empty.
        sizes: height and width of every level's map.
        strides: pixels from cell to cell, by level.
        ranges: of the largest distance from a point to a side, by level.
        radius: see above.

    Returns:
        dict, P points level by level: ``"labels"`` (P,) int64, -1 for a point that sees nothing; ``"distances"`` (P, 4)
        to the left, upper, right and lower side, ``"rays"`` (P, 36), both in pixels and 1 where nothing is seen.

    Raises:
        ValueError: if a mask is empty.
    """
    found = {
        "labels": np.full(sum(h * w for h, w in sizes), -1),
        "distances": np.ones((sum(h * w for h, w in sizes), 4)),
        "rays": np.ones((sum(h * w for h, w in sizes), RAYS)),
    }
    if not len(boxes):
        return found
    boxes = np.asarray(boxes, np.float64)
    grids = [np.mgrid[:h, :w][::-1].reshape(2, -1).T * stride + stride / 2 for (h, w), stride in zip(sizes, strides)]
    points = np.concatenate(grids)
    level = np.repeat(np.arange(len(grids)), [len(grid) for grid in grids])
    centres, contours = zip(*(outline(mask) for mask in masks))

    sides = np.concatenate([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)  # (P, M, 4)
    half = (np.asarray(strides)[level] * radius)[:, None, None]
    first = np.maximum(np.stack(centres) - half, boxes[:, :2])
    last = np.minimum(np.stack(centres) + half, boxes[:, 2:])
    inside = (points[:, None] > first).all(-1) & (points[:, None] < last).all(-1)
    least, most = np.asarray(ranges)[level].T[..., None]
    inside &= (sides.max(-1) >= least) & (sides.max(-1) <= most)
    area = (boxes[:, 2:] - boxes[:, :2] + 1).prod(-1)
    area = np.where(inside, area, NOWHERE)
    owner, seen = area.argmin(1), area.min(1) < NOWHERE
    found["labels"][seen] = np.asarray(labels)[owner[seen]]
    found["distances"][seen] = sides[seen, owner[seen]]
    for i, contour in enumerate(contours):
        mine = seen & (owner == i)
        found["rays"][mine] = _rays(points[mine], contour)
    return found
