"""Matrix suppression of masks: scores are lowered by how much better masks of the same class overlap, all at once.

"SOLOv2: Dynamic and Fast Instance Segmentation", 2020, arXiv:2003.10152, section 3.3.

Mirror notes:
- The same products of matrices in both panels.
"""

import torch

__all__ = ["matrix_nms"]


def matrix_nms(masks, labels, scores, kernel: str = "gaussian", sigma: float = 2.0):
    """Scores after suppression.

    Args:
        masks: (N, C, P) 0 or 1, best first.
        labels: (N, C) class of each.
        scores: (N, C) descending.
        kernel: "gaussian", exp(-sigma IoU^2), or "linear", 1 - IoU.
        sigma: of the Gaussian.

    Returns:
        (N, C).

    Raises:
        ValueError: if there is no such kernel.
    """
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"kernel={kernel!r} must be 'gaussian' or 'linear'")
    shared, area = masks @ masks.mT, masks.sum(-1)
    union = (area[:, :, None] + area[:, None] - shared).clamp(min=1)
    better = torch.ones_like(shared).triu(1) * (labels[:, :, None] == labels[:, None])
    overlap = shared / union * better  # of better mask i with j
    hidden = overlap.amax(1)[:, :, None]  # how much i itself is overlapped
    if kernel == "gaussian":
        decay = torch.exp(sigma * (hidden.square() - overlap.square()))
    else:
        decay = (1 - overlap) / (1 - hidden)
    return scores * decay.amin(1)
