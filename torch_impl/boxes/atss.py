"""Adaptive training sample selection: the anchors near an object decide which of them are positive.

"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", 2019,
arXiv:1912.02424.

Mirror notes:
- Overlaps are written to the candidates' places by ``scatter`` in PyTorch, by one row of indices each in TensorFlow.
"""

import torch

from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.points import distances_to_sides
from torch_impl.layers.top_k import argmax, top_k

__all__ = ["assign_atss"]

MARGIN = 0.01  # pixels that a centre must lie inside the object


def assign_atss(boxes, valid, anchors, counts: list[int], topk: int = 9):
    """Assign an object to every anchor, or none.

    On every level, an object's candidates are the anchors whose centres are nearest to its own. Positive are those
    whose IoU is at least the mean plus the deviation over all its candidates and whose centre lies inside. An anchor
    that is positive for several objects belongs to the one that it overlaps most.

    Args:
        boxes: (N, M, 4) xyxy.
        valid: (N, M) bool, which slots hold an object.
        anchors: (A, 4) xyxy, of all levels.
        counts: anchors of each level.
        topk: candidates of each level.

    Returns:
        (N, A) int64: index of the object, or -1.

    Source: mmdet ``ATSSAssigner``.
    """
    boxes = boxes.detach()
    iou = pairwise_iou(boxes, anchors, 1e-6)  # (N, M, A)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    shift = (boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2 - centres  # (N, M, A, 2)
    distance = torch.sqrt(shift[..., 0] * shift[..., 0] + shift[..., 1] * shift[..., 1])
    candidates, start = [], 0
    for count in counts:
        nearest = top_k(-distance[..., start : start + count], min(topk, count))[1]  # the first of equal distances
        candidates.append(nearest + start)
        start += count
    candidates = torch.cat(candidates, -1)  # (N, M, K)
    overlap = iou.gather(2, candidates)
    mean = overlap.mean(-1, keepdim=True)
    variance = (overlap - mean).square().sum(-1, keepdim=True) / (overlap.shape[-1] - 1)
    inside = distances_to_sides(centres, boxes[:, :, None]).amin(-1) > MARGIN  # (N, M, A)
    good = (overlap >= mean + torch.sqrt(variance)) & inside.gather(2, candidates) & valid[..., None]
    overlap = torch.where(good, overlap, -1.0)
    overlap = torch.full_like(iou, -1.0).scatter(2, candidates, overlap)  # mirror: scatter
    return torch.where(overlap.amax(1) >= 0, argmax(overlap, 1), -1)
