"""Sampling of the anchors or boxes of every image that a loss is computed from, in a fixed proportion.

Mirror notes:
- The same formulas in both panels.
"""

import tensorflow as tf

from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k

__all__ = ["first_positives", "has_area", "sample"]


def has_area(boxes_xyxy):
    """Which boxes have a width and a height.  (..., 4) -> (...) bool."""
    return tf.reduce_all(boxes_xyxy[..., 2:] > boxes_xyxy[..., :2], -1)


def sample(positive, negative, count: int, share: float, priorities=None):
    """Choose up to ``count`` candidates of every image: all positive ones up to a share, the rest negative.

    The references choose at random; random priorities do the same here.

    Args:
        positive, negative: (N, A) bool, disjoint.
        count: candidates of an image.
        share: largest share of the positive ones in ``count``.
        priorities: (N, A) float, the highest are chosen first; None: in order.

    Returns:
        (N, A) bool twice: which positive and which negative ones are chosen.

    Source: torchvision ``detection/_utils.BalancedPositiveNegativeSampler``; mmdet ``RandomSampler``.
    """
    if priorities is not None:
        order = top_k(priorities, priorities.shape[1])[1]
        positive, negative = take_rows(positive, order), take_rows(negative, order)
    positive = positive & (tf.cumsum(tf.cast(positive, tf.int64), 1) <= int(count * share))
    room = count - tf.reduce_sum(tf.cast(positive, tf.int64), 1, keepdims=True)
    negative = negative & (tf.cumsum(tf.cast(negative, tf.int64), 1) <= room)  # mirror: same formulas
    if priorities is not None:
        back = top_k(-order, order.shape[1])[1]  # the inverse permutation
        positive, negative = take_rows(positive, back), take_rows(negative, back)
    return positive, negative


def first_positives(positive, most: int):
    """The first positive rows of every image.

    Args:
        positive: (N, P) bool.
        most: rows of an image, at most.

    Returns:
        index: (N, Q) int64, Q = min(most, P); after the positive rows any others.
        present: (N, Q) bool, which are positive.
    """
    count = positive.shape[1]
    order = tf.where(positive, count - tf.range(count), 0)
    order, index = top_k(tf.cast(order, tf.float32), min(most, count))
    return index, order > 0
