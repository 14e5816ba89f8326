"""Complete IoU: overlap minus the distance of the centres and the difference of the shapes.

"Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", 2019, arXiv:1911.08287, section 4.

Mirror notes:
- ``where`` states which side a tie takes, because the frameworks' own maximum and minimum share the gradient
  differently; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import math

import torch

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
    inner = torch.where(last < other_last, last, other_last) - torch.where(first > other_first, first, other_first)
    inner = torch.where(inner > 0, inner, 0.0)
    shared = inner[..., 0] * inner[..., 1]
    union = size[..., 0] * size[..., 1] + other_size[..., 0] * other_size[..., 1] - shared + eps
    iou = shared / union
    outer = torch.where(last > other_last, last, other_last) - torch.where(first < other_first, first, other_first)
    diagonal = outer.square().sum(-1) + eps
    distance = (centre - other).square().sum(-1)
    angle, other_angle = (torch.atan(s[..., 0] / (s[..., 1] + eps)) for s in (size, other_size))
    difference = 4 / math.pi**2 * (other_angle - angle).square()
    weight = (difference / (difference - iou + 1 + eps)).detach()
    return iou - (distance / diagonal + weight * difference)
