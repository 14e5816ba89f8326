"""Focal loss: cross-entropy with less weight on answers that are right already (arXiv:1708.02002).

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
"""

import tensorflow as tf

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(logits, targets, alpha: float = 0.25, gamma: float = 2.0):
    """Binary focal loss of every element.

    Args:
        logits: any shape, before a sigmoid.
        targets: the same shape, 0 or 1 (or in between).
        alpha: weight of the positives; negatives have ``1 - alpha``. Negative for no weights.
        gamma: power of the probability of the wrong answer.

    Returns:
        The same shape.
    """
    p = tf.sigmoid(logits)
    wrong = (1 - p) * targets + p * (1 - targets)
    # mirror: written out
    losses = (tf.nn.relu(logits) - logits * targets + tf.math.softplus(-tf.abs(logits))) * wrong**gamma
    return losses if alpha < 0 else losses * (alpha * targets + (1 - alpha) * (1 - targets))
