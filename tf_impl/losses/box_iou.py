"""Complete IoU: overlap minus the distance of the centres and the difference of the shapes.

"Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", 2019, arXiv:1911.08287, section 4.

Mirror notes:
- ``where`` states which side a tie takes, because the frameworks' own maximum and minimum share the gradient
  differently; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import math

import tensorflow as tf

__all__ = ["complete_iou"]


def complete_iou(boxes_cxcywh, others_cxcywh, eps: float = 1e-7):
    """CIoU of boxes pair by pair; the weight of the shape term has no gradient.

    Args:
        boxes_cxcywh, others_cxcywh: (..., 4), any unit, sizes above 0.
        eps: keeps the divisors above 0.

    Returns:
        (...), at most 1.

    Source: ultralytics/yolov5 ``utils/metrics.py`` (facts only).
    """
    (centre, size), (other, other_size) = ((b[..., :2], b[..., 2:]) for b in (boxes_cxcywh, others_cxcywh))
    first, last = centre - size / 2, centre + size / 2
    other_first, other_last = other - other_size / 2, other + other_size / 2
    # mirror: which side a tie takes
    inner = tf.where(last < other_last, last, other_last) - tf.where(first > other_first, first, other_first)
    inner = tf.where(inner > 0, inner, tf.zeros_like(inner))
    shared = inner[..., 0] * inner[..., 1]
    union = size[..., 0] * size[..., 1] + other_size[..., 0] * other_size[..., 1] - shared + eps
    iou = shared / union
    outer = tf.where(last > other_last, last, other_last) - tf.where(first < other_first, first, other_first)
    diagonal = tf.reduce_sum(tf.square(outer), -1) + eps
    distance = tf.reduce_sum(tf.square(centre - other), -1)
    angle, other_angle = (tf.atan(s[..., 0] / (s[..., 1] + eps)) for s in (size, other_size))
    difference = 4 / math.pi**2 * tf.square(other_angle - angle)
    weight = tf.stop_gradient(difference / (difference - iou + 1 + eps))
    return iou - (distance / diagonal + weight * difference)
