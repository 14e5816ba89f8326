"""The proposals that the second stage is trained on, and the object of each.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch

from torch_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from torch_impl.boxes.convention import Convention
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import has_area, sample
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k

__all__ = ["sample_rois"]


def sample_rois(
    proposals,
    targets,
    convention: Convention,
    count: int = 512,
    share: float = 0.25,
    positive: float = 0.5,
    low_quality: str | None = None,
):
    """Assign objects to proposals and sample the proposals; the objects are proposals too.

    Args:
        proposals: (N, P, 4) xyxy in pixels; rows without area are no proposals.
        targets: ``"boxes"`` (N, M, 4), ``"valid"`` (N, M) bool; if there is ``"roi_priorities"``, (N, P + M) in the
            order of the convention, the highest are chosen first.
        convention: the order of objects and proposals, and how overlaps are computed.
        count, share: of the sample, see :func:`sample`.
        positive: overlap from which on a proposal belongs to an object; below, it is background.
        low_quality: see :func:`assign_max_iou`; the best proposals of an object must reach ``positive``, too.

    Returns:
        boxes: (N, S, 4), S = min(count, P + M): the chosen proposals, positive ones first; then rows of 0.
        matched: (N, S) int64: index of the object, -1 for background, -2 where nothing was chosen.
    """
    boxes = targets["boxes"]
    present = targets["valid"] & has_area(boxes)
    objects = torch.where(present[..., None], boxes, 0.0)
    parts = (objects, proposals) if convention.objects_first else (proposals, objects)
    candidates = torch.cat(parts, 1).detach()  # mirror: gradients are cut
    iou = pairwise_iou(boxes, candidates, convention.iou_eps)  # (N, M, M + P)
    matched = assign_max_iou(iou, present, positive, positive, low_quality, positive)
    matched = torch.where(has_area(candidates), matched, IGNORED)
    chosen = sample(matched >= 0, matched == BACKGROUND, count, share, targets.get("roi_priorities"))
    kind = 2 * chosen[0].to(torch.int32) + chosen[1].to(torch.int32)
    kind, index = top_k(kind, min(count, candidates.shape[1]))
    candidates = torch.where(kind[..., None] > 0, take_rows(candidates, index), 0.0)
    return candidates, torch.where(kind > 0, take_rows(matched, index), IGNORED)
