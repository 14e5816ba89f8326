"""Gradient harmonising: the more elements have a gradient of the same size, the less each counts.

"Gradient Harmonized Single-stage Detector", 2018, arXiv:1811.05181. Source: mmdet ``losses/ghm_loss.py`` (Apache-2.0).

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import tensorflow as tf

from tf_impl.losses.dense import binary_cross_entropy

__all__ = ["ghm_classification_loss", "ghm_regression_loss", "harmonized_weights"]

EPS = 1.1920929e-07  # of float32; mmdet adds it to its divisors


def harmonized_weights(size, present, counts, momentum: float):
    """Weights of elements, inverse to how many elements have a gradient of about the same size.

    Args:
        size: sizes of gradients in [0, 1], any shape.
        present: bool, the same shape; the others have weight 0 and are not counted.
        counts: (B,) running counts of as many bins of equal width.
        momentum: share of the running counts that is kept where a bin has elements; 0 for the current counts alone.

    Returns:
        weights: the same shape; their mean over all present elements is about 1 once the counts have settled.
        counts: (B,) the new running counts.
    """
    bins = counts.shape[0]
    index = tf.cast(tf.clip_by_value(tf.floor(size * bins), 0, bins - 1), tf.int64)
    found = tf.stack([tf.reduce_sum(tf.cast(present & (index == i), tf.int64)) for i in range(bins)])
    found = tf.cast(found, counts.dtype)
    filled = found > 0
    counts = tf.where(filled, momentum * counts + (1 - momentum) * found, counts)
    total = tf.maximum(tf.reduce_sum(found), 1.0)
    bins = tf.maximum(tf.reduce_sum(tf.cast(filled, counts.dtype)), 1.0)
    of_bin = tf.where(filled, total / tf.where(filled, counts, 1.0), 0.0) / bins
    return tf.where(present, tf.gather(of_bin, index), 0.0), counts


def ghm_classification_loss(logits, targets, present, counts, momentum: float = 0.75):
    """GHM-C: binary cross-entropy, harmonised (equation 8).

    Args:
        logits, targets: any shape; targets 0 or 1.
        present: bool, the same shape; which elements take part.
        counts, momentum: see :func:`harmonized_weights`.

    Returns:
        The mean over the elements that take part, and the new counts.
    """
    size = tf.stop_gradient(tf.abs(tf.sigmoid(logits) - targets))  # mirror: Gradients are cut
    weights, counts = harmonized_weights(size, present, counts, momentum)
    number = tf.cast(tf.maximum(tf.reduce_sum(tf.cast(present, tf.int64)), 1), logits.dtype)
    losses = binary_cross_entropy(logits, targets) * weights  # mirror: written out
    return tf.reduce_sum(losses) / (number + EPS), counts


def ghm_regression_loss(differences, present, counts, momentum: float = 0.7, mu: float = 0.02):
    """GHM-R: a smooth absolute value, sqrt(d^2 + mu^2) - mu, harmonised (equation 13).

    Args:
        differences: predictions minus targets, any shape.
        present: bool, the same shape; which elements take part.
        counts, momentum: see :func:`harmonized_weights`.
        mu: how smooth the absolute value is near 0.

    Returns:
        The mean over the elements that take part, and the new counts.
    """
    root = tf.sqrt(tf.square(differences) + mu**2)
    weights, counts = harmonized_weights(tf.stop_gradient(tf.abs(differences / root)), present, counts, momentum)
    number = tf.cast(tf.maximum(tf.reduce_sum(tf.cast(present, tf.int64)), 1), differences.dtype)
    return tf.reduce_sum((root - mu) * weights) / (number + EPS), counts
