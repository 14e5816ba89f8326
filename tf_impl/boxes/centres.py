"""Boxes by centre and size.

Mirror notes:
- The same formulas in both panels.
"""

import tensorflow as tf

__all__ = ["area", "corners"]


def corners(boxes_cxcywh):
    """Centre and size -> first and last corner.  (..., 4) -> (..., 4)."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return tf.concat((centre - half, centre + half), -1)


def area(sizes):
    """Width times height.  (..., 2) -> (...)."""
    return sizes[..., 0] * sizes[..., 1]
