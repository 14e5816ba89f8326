"""Bounded IoU: how much each of a box's four coordinates alone would lower the overlap.

Mirror notes:
- The same formulas in both panels.
"""

import tensorflow as tf

__all__ = ["bounded_iou_loss"]


def bounded_iou_loss(boxes_xyxy, wanted_xyxy, beta: float = 0.2, eps: float = 1e-3):
    """Smooth L1 of 1 minus the largest overlap that each coordinate allows if the others are right.

    Args:
        boxes_xyxy, wanted_xyxy: (..., 4), any unit; the second is a constant.
        beta: below it the loss is quadratic.
        eps: keeps the divisors above 0.

    Returns:
        (..., 4): of x, y, width and height.

    Source: "Improving Object Localization with Fitness NMS and Bounded IoU Loss", 2017, arXiv:1711.00164; mmdet
    ``losses/iou_loss.py`` (Apache-2.0).
    """
    wanted_xyxy = tf.stop_gradient(wanted_xyxy)
    size, wanted = (x[..., 2:] - x[..., :2] for x in (boxes_xyxy, wanted_xyxy))
    shift = tf.abs((wanted_xyxy[..., 2:] + wanted_xyxy[..., :2] - boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]) / 2)
    of_place = 1 - tf.maximum((wanted - 2 * shift) / (wanted + 2 * shift + eps), 0.0)
    larger, smaller = wanted / (size + eps), size / (wanted + eps)
    of_size = 1 - tf.where(larger < smaller, larger, smaller)
    losses = tf.concat((of_place, of_size), -1)
    return tf.where(losses < beta, 0.5 * losses**2 / beta, losses - 0.5 * beta)
