"""The largest entries of a row, with a defined order among equal ones: the lower index comes first.

Mirror notes:
- ``torch.topk`` does not define the order of equal values, so PyTorch uses a stable sort, of the largest alone if
  they are few; ``tf.math.top_k`` has this order.
- The stable sort has no ONNX operator: while exporting, PyTorch emits ``TopK``, for which runtimes use the same order.
"""

import tensorflow as tf

__all__ = ["argmax", "top_k"]


def top_k(scores, k: int):
    """Largest ``k`` entries along the last axis, in descending order; of equal entries the lower index comes first.

    Args:
        scores: (..., L) real tensor without NaN; L is static.
        k: number of entries, 0 to L.

    Returns:
        values: (..., k), differentiable.
        indices: (..., k) int64.

    Raises:
        ValueError: if ``k`` is negative or larger than L.
    """
    if not 0 <= k <= scores.shape[-1]:
        raise ValueError(f"k must be between 0 and {scores.shape[-1]} (the length of the last axis), got {k}")
    values, indices = tf.math.top_k(scores, k)  # index_type=tf.int64 has no gradient; mirror: order of equal values
    return values, tf.cast(indices, tf.int64)  # mirror: no ONNX operator


def argmax(x, axis: int = -1):
    """Index (int64) of the largest entry along ``axis``; of equal entries the lowest index."""
    return tf.argmax(x, axis=axis)
