"""Rows of a batch: gathered by an index per sample, or made from the cells or anchors of a map.

Mirror notes:
- PyTorch gathers by an index of the result's shape, TensorFlow with ``tf.gather(batch_dims=1)``.
- A map becomes rows after a transposition in PyTorch.
"""

import tensorflow as tf

__all__ = ["anchor_rows", "map_rows", "take_rows"]


def take_rows(values, index):
    """Rows of a batch by index.  values: (N, M, ...), index: (N, A), negative for the first row -> (N, A, ...)."""
    return tf.gather(values, tf.maximum(index, 0), batch_dims=1)  # mirror: by an index of the result's shape


def map_rows(x):
    """Cells of a map as rows, row by row of the map.  (N, H, W, C) -> (N, H * W, C)."""
    return tf.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))  # mirror: transposition


def anchor_rows(x, channels: int):
    """Anchors of a map as rows.  (N, H, W, A * channels), the anchor outermost -> (N, H * W * A, channels)."""
    _, h, w, width = x.shape
    return tf.reshape(x, (-1, h * w * width // channels, channels))  # mirror: transposition
