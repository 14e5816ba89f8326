"""Rows by index, another index for each sample.

Mirror notes:
- PyTorch picks rows by advanced indexing, TensorFlow with ``tf.gather(batch_dims=1)``.
"""

import tensorflow as tf

__all__ = ["pick"]


def pick(rows, index):
    """Rows by index per sample.  (N, A, ...), (N, B) int64 -> (N, B, ...)."""
    return tf.gather(rows, index, batch_dims=1)  # mirror: advanced indexing
