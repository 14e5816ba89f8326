"""Dice loss with squares in the denominator ("V-Net", 2016, arXiv:1606.04797).

Mirror notes:
- The same formula in both panels.
"""

import tensorflow as tf

__all__ = ["squared_dice"]


def squared_dice(probabilities, targets, eps: float = 1e-3):
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 2 eps) over the last axis.  (..., P), the same -> (...)."""
    shared = tf.reduce_sum(probabilities * targets, -1)
    whole = tf.reduce_sum(tf.square(probabilities), -1) + tf.reduce_sum(tf.square(targets), -1)
    return 1 - 2 * shared / (whole + 2 * eps)
