"""Losses of dense detectors: overlap of boxes pair by pair, and logits against qualities between 0 and 1.

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
- ``where`` states which side a tie takes, because the frameworks' own maximum and minimum share the gradient
  differently.
"""

import tensorflow as tf

from tf_impl.boxes.iou import box_area

__all__ = ["binary_cross_entropy", "iou_loss", "paired_iou", "quality_focal_loss"]


def binary_cross_entropy(logits, targets):
    """Cross-entropy of every element, between logits and targets in [0, 1].  Any shape -> the same."""
    return tf.nn.relu(logits) - logits * targets + tf.math.softplus(-tf.abs(logits))  # mirror: written out


def quality_focal_loss(logits, qualities, beta: float = 2.0):
    """Quality focal loss of every element (arXiv:2006.04388, equation 3).

    Args:
        logits: any shape, before a sigmoid.
        qualities: the same shape, in [0, 1]; 0 for negatives.
        beta: power of the difference.

    Returns:
        The same shape.
    """
    return binary_cross_entropy(logits, qualities) * tf.abs(qualities - tf.sigmoid(logits)) ** beta


def paired_iou(boxes_xyxy, others_xyxy, eps: float = 1e-6):
    """IoU of boxes pair by pair, differentiable.

    Args:
        boxes_xyxy, others_xyxy: (..., 4), any unit.
        eps: lower bound of the divisor.

    Returns:
        (...) in [0, 1].
    """
    (first, last), (other_first, other_last) = ((b[..., :2], b[..., 2:]) for b in (boxes_xyxy, others_xyxy))
    # mirror: which side a tie takes
    size = tf.where(last < other_last, last, other_last) - tf.where(first > other_first, first, other_first)
    size = tf.where(size > 0, size, tf.zeros_like(size))
    shared = size[..., 0] * size[..., 1]
    union = box_area(boxes_xyxy) + box_area(others_xyxy) - shared
    return shared / tf.where(union > eps, union, tf.constant(eps, union.dtype))


def iou_loss(boxes_xyxy, targets_xyxy, eps: float = 1e-6):
    """Negative logarithm of the IoU, which is bounded below by ``eps``.  (..., 4) -> (...)."""
    iou = paired_iou(boxes_xyxy, targets_xyxy, eps)
    return -tf.math.log(tf.where(iou > eps, iou, tf.constant(eps, iou.dtype)))
