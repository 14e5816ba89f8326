"""Regression losses of boxes, by element or by box.

Mirror notes:
- Written out in both panels: at a difference of 0 PyTorch and TensorFlow agree on the gradient 0.
"""

import torch

from torch_impl.boxes.iou import generalized_iou

__all__ = ["giou_loss", "l1_loss", "smooth_l1_loss"]


def l1_loss(predictions, targets):
    """Absolute difference.  (..., 4) -> (...), summed over the four numbers."""
    return (predictions - targets).abs().sum(-1)  # mirror: Written out


def smooth_l1_loss(predictions, targets, beta: float = 1.0):
    """Quadratic below ``beta``, linear above (arXiv:1504.08083).  (..., 4) -> (...), summed over the four numbers.

    Args:
        predictions, targets: (..., 4).
        beta: where the two pieces meet; above 0.
    """
    difference = (predictions - targets).abs()
    near, far = 0.5 * difference.square() / beta, difference - 0.5 * beta
    return torch.where(difference < beta, near, far).sum(-1)


def giou_loss(boxes_xyxy, targets_xyxy, eps: float = 1e-7, guard: str = "add"):
    """1 minus the generalised IoU, see :func:`generalized_iou`.  (..., 4) -> (...), in [0, 2]."""
    return 1 - generalized_iou(boxes_xyxy, targets_xyxy, eps, guard)
