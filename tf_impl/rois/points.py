"""Points in boxes and images, and the values of maps at them.

"PointRend: Image Segmentation as Rendering", 2019, arXiv:1912.08193. Names: mmdet ``mask_heads/mask_point_head.py``,
``mask_heads/coarse_mask_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; points precede the channels here, follow them there.
- The values of some points are replaced by ``tf.tensor_scatter_nd_update``, in PyTorch by ``scatter``.
"""

import numpy as np
import tensorflow as tf

from tf_impl.layers.grid_sample import grid_sample

__all__ = ["box_points", "cell_points", "halton", "point_sample", "replace_points"]


def halton(count: int, first: int = 1) -> np.ndarray:
    """Points of the Halton sequence with the bases 2 and 3, spread evenly over the unit square.

    Args:
        count: number of points.
        first: index of the first one; index 0 is the corner.

    Returns:
        (count, 2) in [0, 1), float64.
    """
    index = np.arange(first, first + count)
    found = np.zeros((count, 2))
    for axis, base in enumerate((2, 3)):
        rest, share = index.copy(), 1.0
        while rest.any():
            share /= base
            found[:, axis] += share * (rest % base)
            rest //= base
    return found


def point_sample(x, points):
    """Bilinear values of a map at points, 0 outside the map.

    Args:
        x: (N, H, W, C).
        points: (N, P, 2), x and y as shares of width and height.

    Returns:
        (N, P, C).
    """
    return grid_sample(x, (2 * points - 1)[:, :, None])[:, :, 0]  # mirror: NHWC


def box_points(boxes, points):
    """Points relative to boxes as points of the image.

    Args:
        boxes: (..., 4) xyxy in pixels.
        points: (..., P, 2), x and y as shares of width and height of the box.

    Returns:
        (..., P, 2), x and y in pixels.
    """
    return boxes[..., None, :2] + points * (boxes[..., None, 2:] - boxes[..., None, :2])


def cell_points(index, size: tuple[int, int], dtype):
    """Centres of cells.  Index of a cell (..., P) int64 in a map of height and width -> (..., P, 2) in [0, 1]."""
    row = index // size[1]
    place = tf.cast(tf.stack([index - row * size[1], row], -1), dtype)
    return (place + 0.5) / tf.constant([size[1], size[0]], dtype)


def replace_points(x, index, values):
    """Replace the values of some cells of a map.

    Args:
        x: (R, H, W).
        index: (R, P) int64, of a cell.
        values: (R, P).

    Returns:
        (R, H, W).
    """
    shape, count = tf.shape(x, out_type=tf.int64), index.shape[1]
    row = tf.tile(tf.range(shape[0])[:, None], (1, count))
    flat = tf.reshape(x, (-1, x.shape[1] * x.shape[2]))
    # mirror: tf.tensor_scatter_nd_update
    return tf.reshape(tf.tensor_scatter_nd_update(flat, tf.stack([row, index], -1), values), (-1, *x.shape[1:]))
