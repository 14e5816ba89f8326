"""Overlap of boxes: pairwise intersection over union, and its generalised variant for regression losses.

Mirror notes:
- The same formulas in both panels; ``where`` states which side a tie takes, because the frameworks' maxima and minima
  share the gradient differently.
"""

import tensorflow as tf

__all__ = ["box_area", "generalized_iou", "pairwise_iou"]


def box_area(boxes_xyxy):
    """Area of every box.  (..., 4) -> (...)."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def pairwise_iou(boxes_xyxy, others_xyxy, eps: float = 0.0, mode: str = "iou"):
    """Overlap of every box with every other box; not meant for gradients.

    Args:
        boxes_xyxy: (..., M, 4), any unit.
        others_xyxy: (A, 4) or (..., A, 4), same unit.
        eps: lower bound of the divisor (1e-6 in mmdet's assigners, none in torchvision); where the divisor is 0, the
            overlap is 0.
        mode: "iou", or "iof" for the share of the first box that is covered.

    Returns:
        (..., M, A) in [0, 1].

    Raises:
        ValueError: if ``mode`` is unknown.
    """
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode={mode!r} must be 'iou' or 'iof'")
    boxes, others = boxes_xyxy[..., :, None, :], others_xyxy[..., None, :, :]
    first = tf.maximum(boxes[..., :2], others[..., :2])
    last = tf.minimum(boxes[..., 2:], others[..., 2:])
    size = tf.maximum(last - first, 0.0)
    shared = size[..., 0] * size[..., 1]  # (..., M, A)
    area = box_area(boxes)
    divisor = area + box_area(others) - shared if mode == "iou" else area + tf.zeros_like(shared)
    if eps:
        return shared / tf.maximum(divisor, eps)
    return shared / tf.where(divisor > 0, divisor, tf.ones_like(divisor))


def generalized_iou(boxes_xyxy, others_xyxy, eps: float = 1e-7, guard: str = "add"):
    """GIoU of boxes pair by pair: IoU minus the empty share of the smallest box around both (arXiv:1902.09630).

    Args:
        boxes_xyxy, others_xyxy: (..., 4), any unit, x1 <= x2 and y1 <= y2.
        eps: keeps the divisors above 0.
        guard: "add" adds it to them (torchvision), "max" makes it their lower bound (mmdet).

    Returns:
        (...) in [-1, 1], differentiable.

    Raises:
        ValueError: if ``guard`` is unknown.
    """
    if guard not in ("add", "max"):
        raise ValueError(f"guard={guard!r} must be 'add' or 'max'")

    def guarded(divisor):
        return divisor + eps if guard == "add" else tf.where(divisor > eps, divisor, tf.constant(eps, divisor.dtype))

    (first, last), (other_first, other_last) = ((b[..., :2], b[..., 2:]) for b in (boxes_xyxy, others_xyxy))
    # mirror: which side a tie takes
    size = tf.where(last < other_last, last, other_last) - tf.where(first > other_first, first, other_first)
    size = tf.where(size > 0, size, tf.zeros_like(size))
    shared = size[..., 0] * size[..., 1]
    union = box_area(boxes_xyxy) + box_area(others_xyxy) - shared
    size = tf.where(last > other_last, last, other_last) - tf.where(first < other_first, first, other_first)
    enclosing = size[..., 0] * size[..., 1]
    return shared / guarded(union) - (enclosing - union) / guarded(enclosing)
