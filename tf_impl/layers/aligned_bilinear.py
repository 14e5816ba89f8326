"""Upsampling by an integer factor such that every ``factor``-th pixel keeps its value (AdelaiDet's, mmdet's).

Mirror notes:
- Maps are NHWC here, NCHW in PyTorch; masks of instances are (N, D, H, W) in both.
"""

import numpy as np
import tensorflow as tf

__all__ = ["aligned_bilinear"]


def aligned_bilinear(x, factor: int, axes: tuple[int, int]):
    """Linear interpolation at (i - factor // 2) / factor; borders repeat.

    Args:
        x: maps or masks; the sizes of ``axes`` are static.
        factor: even.
        axes: those of height and width.

    Returns:
        The same, ``factor`` times as high and as wide.
    """
    for axis in axes:
        size = x.shape[axis]
        place = np.clip((np.arange(size * factor) - factor // 2) / factor, 0, size - 1)
        low = np.floor(place)
        index = tf.constant(np.stack([low, np.minimum(low + 1, size - 1)]), tf.int64)
        share = tf.reshape(tf.constant(place - low, x.dtype), (-1, *[1] * (len(x.shape) - 1 - axis)))
        x = tf.gather(x, index[0], axis=axis) * (1 - share) + tf.gather(x, index[1], axis=axis) * share
    return x
