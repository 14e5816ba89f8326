"""Anchors whose positions and shapes a network predicts: the squares they start from, and their targets.

"Region Proposal by Guided Anchoring", 2019, arXiv:1901.03278. Reference: mmdet ``dense_heads/guided_anchor_head.py``,
``assigners/approx_max_iou_assigner.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels.
"""

import math

import tensorflow as tf

from tf_impl.boxes.iou import pairwise_iou

__all__ = ["approximate_iou", "guide_squares", "location_targets"]

RATIOS, SCALES = (0.5, 1.0, 2.0), (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # of the anchors that stand for all shapes
CENTRE, SURROUNDINGS = 0.2, 0.5  # shares of a box's width and height
FAR = 0.1  # weight of the cells that are far from all objects
MAX_LOG_RATIO = math.log(1e6)


def guide_squares(squares, shapes, std: float):
    """Anchors from squares and predicted shapes.

    Args:
        squares: (A, 4) xyxy.
        shapes: (N, A, 2), logarithms of width and height relative to the square's, divided by ``std``.

    Returns:
        (N, A, 4) xyxy.
    """
    size, centre = squares[:, 2:] - squares[:, :2], (squares[:, 2:] + squares[:, :2]) / 2
    half = 0.5 * size * tf.exp(tf.clip_by_value(shapes * std, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    return tf.concat((centre - half, centre + half), -1)


def approximate_iou(boxes_xyxy, squares, eps: float):
    """The overlap of boxes with cells: the largest over nine anchor shapes.

    Args:
        boxes_xyxy: (N, M, 4).
        squares: (A, 4) xyxy.
        eps: see :func:`pairwise_iou`.

    Returns:
        (N, M, A).
    """
    size, centre = squares[:, 2:] - squares[:, :2], (squares[:, 2:] + squares[:, :2]) / 2
    found = []
    for ratio in RATIOS:
        for scale in SCALES:
            shape = tf.constant([scale / ratio**0.5, scale * ratio**0.5], size.dtype)
            half = 0.5 * size * shape
            found.append(pairwise_iou(boxes_xyxy, tf.concat((centre - half, centre + half), -1), eps))
    return tf.reduce_max(tf.stack(found), 0)


def location_targets(boxes_xyxy, present, squares, size: float, strides: tuple[int, ...]):
    """Which cells should have anchors: those in the middle of an object of their level's size.

    Cells around the middle are ignored, also on the neighbouring levels. Of several objects the last one decides a
    cell's weight.

    Args:
        boxes_xyxy: (N, M, 4) in pixels.
        present: (N, M) bool.
        squares: (A, 4) xyxy in pixels, around the upper left corner of every cell.
        size: side of a square, in strides.
        strides: of the levels, each twice the one before.

    Returns:
        targets: (N, A) bool.
        weights: (N, A): 1, 0, or 0.1 for cells that are far from all objects.
    """
    stride = (squares[:, 2] - squares[:, 0]) / size  # (A,)
    place = tf.round((squares[:, 2:] + squares[:, :2]) / 2 / stride[:, None])  # (A, 2)
    of_cell = sum(tf.cast(stride >= bound, tf.int64) for bound in strides[1:])  # (A,)
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    length = tf.sqrt(tf.maximum(sides[..., 0] * sides[..., 1], 0.0))
    of_box = sum(tf.cast(length >= size * bound / 2**0.5, tf.int64) for bound in strides[1:])[..., None]  # (N, M, 1)
    corners = boxes_xyxy[:, :, None] / stride[:, None]  # (N, M, A, 4)

    def inside(share):
        edge = (1 - share) / 2
        first = tf.round((1 - edge) * corners[..., :2] + edge * corners[..., 2:])  # halves to even
        last = tf.round(edge * corners[..., :2] + (1 - edge) * corners[..., 2:])
        return tf.reduce_all((place >= first) & (place <= last), -1) & present[..., None]  # (N, M, A)

    surroundings, own = inside(SURROUNDINGS), of_box == of_cell
    middle, painted = inside(CENTRE) & own, surroundings & own
    beside = tf.reduce_any(surroundings & (tf.abs(of_box - of_cell) == 1), 1)
    slots = tf.range(boxes_xyxy.shape[1], dtype=tf.int64)[:, None]
    last = tf.reduce_max(tf.where(painted, slots, -1), 1, keepdims=True)  # (N, 1, A)
    counted = tf.cast(tf.reduce_any(middle & (slots == last), 1), boxes_xyxy.dtype)
    elsewhere = FAR * tf.cast(~beside, boxes_xyxy.dtype)
    return tf.reduce_any(middle, 1), tf.where(last[:, 0] >= 0, counted, elsewhere)
