"""FSAF: no anchors, and every object is learnt on the level of the pyramid with its smallest loss.

"Feature Selective Anchor-Free Module for Single-Shot Object Detection", 2019, arXiv:1903.00621; its anchor-free branch
alone, as in mmdet.
Parameter names: mmdet ``dense_heads/fsaf_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.iou import box_area, pairwise_iou
from torch_impl.boxes.points import distances_to_sides
from torch_impl.detection._dense import (
    EPS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    dense_neck,
    one_hot,
    rows,
)
from torch_impl.detection.atss import square_anchors
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax
from torch_impl.losses.dense import iou_loss
from torch_impl.losses.focal import sigmoid_focal_loss

__all__ = ["FSAFCriterion", "FSAFHead", "FSAFPostProcess", "fsaf_r50_fpn", "fsaf_r101_fpn"]

SCALE = 4.0  # the distances' unit, in strides
LEAST = 1e-4  # lower bound of distances
LEAST_SHARE = 0.01  # share of a cell that an object's core must cover
NOWHERE = 1e8  # area of an object that a cell does not belong to
NO_CELL = 1e6  # loss of an object on a level where it has no cell


class FSAFHead(DenseHead):
    """Classes and distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) top, bottom, left, right, in
        four strides.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4):
        super().__init__(channels, num_convs, None)
        self.retina_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.retina_reg = self.last(channels, 4, 0.25)

    def forward(self, maps):
        found = {"cls": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x)
            found["cls"].append(self.retina_cls(of_classes))
            found["reg"].append(F.relu(self.retina_reg(of_boxes)))
        return self.named(found)


def decode_distances(distances, cells):
    """Boxes from distances (N, A, 4) top, bottom, left, right to the centres of cells (A, 4) xyxy -> (N, A, 4) xyxy."""
    distances = torch.where(distances > LEAST, distances, LEAST)
    top, bottom, left, right = (distances[..., i] * SCALE * (cells[:, 2] - cells[:, 0]) for i in range(4))
    x, y = (cells[:, 0] + cells[:, 2]) / 2, (cells[:, 1] + cells[:, 3]) / 2
    return torch.stack((x - left, y - top, x + right, y + bottom), -1)


class FSAFCriterion(nn.Module):
    """Focal loss of the classes and IoU loss of the boxes, on every object's best level.

    A cell belongs to the smallest object whose core it touches and that contains its centre. For the classes of other
    objects whose core it touches, the cell is neither positive nor negative, even for its own class.

    Args:
        core: size of an object's core relative to its own.
        alpha, gamma: of the focal loss.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        core: float = 0.2,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.core, self.alpha, self.gamma, self.strides = core, alpha, gamma, tuple(strides)

    def forward(self, outputs, targets):
        logits, distances = rows(outputs, "cls"), rows(outputs, "reg")
        levels = square_anchors(outputs, self.strides, 1.0)
        cells = torch.from_numpy(np.concatenate(levels)).to(logits)  # (A, 4)
        counts = [len(found) for found in levels]
        level_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(targets["labels"])  # (A,)
        boxes, labels = targets["boxes"].to(logits.dtype), targets["labels"]
        classes = logits.shape[-1]

        matched, unclear = self._assign(boxes, targets["valid"], cells)  # (N, A), (N, A, M)
        known = one_hot(labels, targets["valid"], classes, logits.dtype)  # (N, M, K)
        ignored = torch.matmul(unclear.to(logits.dtype), known)  # (N, A, K)
        found = one_hot(take_rows(labels, matched), matched >= 0, classes, logits.dtype)
        positive = (found * torch.where(ignored > 0, 0.0, torch.ones_like(found))).sum(-1) > 0
        wanted = found * positive[..., None].to(logits.dtype)

        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        losses = torch.where(ignored > 0, 0.0, losses)  # (N, A, K)
        # a cell without an object is its own target: finite, and masked
        target = take_rows(boxes, matched).detach()  # mirror: gradients are cut
        target = torch.where(positive[..., None], target, cells)
        overlaps = torch.where(positive, iou_loss(decode_distances(distances, cells), target), 0.0)  # (N, A)

        slots = torch.arange(boxes.shape[1], device=boxes.device)[:, None]
        mine = ((matched[:, None] == slots) & positive[:, None]).to(logits.dtype)  # (N, M, A)
        together = (losses.sum(-1) + overlaps).detach()[:, None]  # (N, 1, A)
        means, start = [], 0
        for count in counts:
            of_level = mine[..., start : start + count]
            number = of_level.sum(-1)
            mean = (of_level * together[..., start : start + count]).sum(-1) / torch.clamp(number, min=1.0)
            means.append(torch.where(number > 0, mean, NO_CELL))
            start += count
        best = argmax(-torch.stack(means, 1), 1)  # (N, M); of equal losses the first level

        chosen = positive & (take_rows(best, matched) == level_of)
        number = chosen.to(logits.dtype).sum()
        every = torch.ones_like(overlaps).sum()
        divisor = torch.where(number > 0, number, every) + EPS
        # where another level was chosen, the class is neither positive nor negative
        losses = torch.where((wanted > 0) & ~chosen[..., None], 0.0, losses)
        classification = losses.sum() / divisor
        regression = torch.where(chosen, overlaps, 0.0).sum() / divisor
        return {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}

    def _assign(self, boxes, valid, cells):
        """(N, A) int64 the object of every cell or -1, (N, A, M) bool the other objects that it touches."""
        centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2 * self.core
        core = torch.cat((centre - half, centre + half), -1)
        touches = (pairwise_iou(cells, core, 1e-6, "iof") > LEAST_SHARE) & valid[:, None]  # (N, A, M)
        centres = ((cells[:, :2] + cells[:, 2:]) / 2)[:, None]
        inside = touches & (distances_to_sides(centres, boxes[:, None]) > 0).all(-1)
        index = argmax(-torch.where(inside, box_area(boxes)[:, None], NOWHERE), 2)  # the first of equal areas
        matched = torch.where(inside.any(2), index, -1)
        slots = torch.arange(boxes.shape[1], device=boxes.device)
        return matched, touches & (slots != matched[..., None])


class FSAFPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        distances = rows(outputs, "reg")
        cells = torch.from_numpy(np.concatenate(square_anchors(outputs, self.strides, 1.0))).to(distances)
        return decode_distances(distances, cells)


def fsaf_r50_fpn(
    depth: int = 50, num_classes: int = 80, out_channels: int = 256, num_convs: int = 4, **options
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = FSAFHead(out_channels, num_classes, num_convs)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_input"), head)


def fsaf_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return fsaf_r50_fpn(depth=depth, **options)
