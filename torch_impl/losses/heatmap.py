"""Focal loss of heat maps, with less weight near a peak.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244, equation 1.

Mirror notes:
- ``where`` states which side a tie takes, because the frameworks' clamps share the gradient differently.
"""

import torch

__all__ = ["clamped_sigmoid", "heatmap_focal_loss"]


def clamped_sigmoid(logits, eps: float = 1e-4):
    """Probabilities clipped to ``eps`` from 0 and 1, where they have no gradient.  Any shape -> the same."""
    p = torch.sigmoid(logits)
    return torch.where(p < eps, eps, torch.where(p > 1 - eps, 1 - eps, p))  # mirror: which side a tie


def heatmap_focal_loss(heat, wanted):
    """Sum over all cells, divided by the number of peaks, at least 1.

    Args:
        heat: any shape, probabilities, not 0 and not 1.
        wanted: the same shape, in [0, 1]; 1 at the peaks.

    Returns:
        Scalar.
    """
    peak = wanted == 1
    at_peaks = torch.log(heat) * (1 - heat).square()
    elsewhere = torch.log(1 - heat) * heat.square() * (1 - wanted) ** 4
    return -torch.where(peak, at_peaks, elsewhere).sum() / peak.to(heat.dtype).sum().clamp(min=1.0)
