"""Which ground truth an anchor has to find, by their overlap; for a whole batch of padded ground truth at once.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch

from torch_impl.layers.top_k import argmax

__all__ = ["assign_max_iou"]

BACKGROUND, IGNORED = -1, -2


def assign_max_iou(
    iou,
    valid,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: str | None = "own",
    min_positive: float = 0.0,
    zero_matches: bool = True,
):
    """Assign to every anchor the ground truth that it overlaps most, or none.

    Args:
        iou: (N, M, A) overlap of ground truth and anchors.
        valid: (N, M) bool, which slots hold ground truth; the others have no effect.
        positive: an anchor with at least this overlap is matched.
        negative: an anchor with less is background; in between it is ignored.
        low_quality: what happens to the best anchors of a ground truth (ties included), however small the overlap:
            "own", they take the ground truth that they overlap most (torchvision); "forced", they take that ground
            truth, the last of several (mmdet); None, nothing.
        min_positive: overlap that a ground truth's best anchors must reach for this, at least 0.
        zero_matches: whether the best overlap may be 0, as in both references: a ground truth that overlaps no anchor
            then matches all anchors of overlap 0.

    Returns:
        (N, A) int64: index of the ground truth, ``BACKGROUND`` (-1) or ``IGNORED`` (-2).

    Raises:
        ValueError: if there is no such rule.

    Source: torchvision ``detection/_utils.Matcher``; mmdet ``MaxIoUAssigner``.
    """
    if low_quality not in ("own", "forced", None):
        raise ValueError(f"low_quality={low_quality!r} must be 'own', 'forced' or None")
    iou = torch.where(valid[..., None], iou.detach(), -1.0)  # mirror: gradients are cut
    best, index = iou.amax(1), argmax(iou, 1)  # (N, A); of equal overlaps the first ground truth
    matched = torch.where(best < negative, BACKGROUND, torch.where(best < positive, IGNORED, index))
    if low_quality is None:
        return matched
    highest = iou.amax(2, keepdim=True)  # (N, M, 1)
    eligible = highest >= min_positive  # padding excepted, which has -1
    if not zero_matches:
        eligible &= highest > 0
    tied = (iou == highest) & eligible  # (N, M, A)
    if low_quality == "own":
        return torch.where(tied.any(1), index, matched)
    slots = torch.arange(iou.shape[1], device=iou.device)[:, None]
    last = torch.where(tied, slots, -1).amax(1)
    return torch.where(last >= 0, last, matched)
