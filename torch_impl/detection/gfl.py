"""Generalised focal loss: class scores as qualities, and distances as distributions.

"Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection", 2020,
arXiv:2006.04388.
Parameter names: mmdet ``dense_heads/gfl_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
- The numbers 0, 1, ... of the distribution are a buffer here, a non-trainable variable in TensorFlow.
"""

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.atss import assign_atss
from torch_impl.boxes.points import boxes_of_distances, distances_to_sides
from torch_impl.detection._dense import (
    EPS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    dense_neck,
    level_points,
    one_hot,
    rows,
)
from torch_impl.detection.atss import square_anchors
from torch_impl.layers.rows import take_rows
from torch_impl.layers.scale import Scale
from torch_impl.losses.box import giou_loss
from torch_impl.losses.dense import paired_iou, quality_focal_loss

__all__ = [
    "GFLCriterion",
    "GFLHead",
    "GFLPostProcess",
    "Integral",
    "distribution_focal_loss",
    "expected_distances",
    "gfl_r50_fpn",
    "gfl_r101_fpn",
]

REG_MAX = 16


class Integral(nn.Module):
    """The numbers 0 to ``reg_max``, whose expected value is a distance; a model stores them for its checkpoints.

    Args:
        reg_max: the largest number.
    """

    def __init__(self, reg_max: int = REG_MAX):
        super().__init__()
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))  # mirror: buffer

    def forward(self, x):
        """(..., 4 * (R + 1)) logits, concatenated -> (..., 4)."""
        return expected_distances(x, self.project.shape[0] - 1)


def expected_distances(x, reg_max: int):
    """(..., 4 * (R + 1)) logits, concatenated -> (..., 4) expected values of 0 to R."""
    x = torch.softmax(x.reshape(*x.shape[:-1], 4, reg_max + 1), -1)
    return (x * torch.arange(reg_max + 1, device=x.device).to(x)).sum(-1)


def distribution_focal_loss(logits, targets, reg_max: int):
    """Cross-entropy against the two integers around a target, weighted by closeness (equation 6).

    Args:
        logits: (..., 4 * (R + 1)).
        targets: (..., 4) from 0 to below R.
        reg_max: R.

    Returns:
        (...), summed over the four sides.
    """
    logits = logits.reshape(*logits.shape[:-1], 4, reg_max + 1)
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    likelihood = shifted - torch.log(torch.exp(shifted).sum(-1, keepdim=True))
    numbers = torch.arange(reg_max + 1, device=logits.device).to(logits)
    # a target's two neighbours have 1 minus their distance to it, all others 0
    nearness = torch.clamp(1 - (targets[..., None] - numbers).abs(), min=0.0)
    return -(likelihood * nearness).sum((-1, -2))


class GFLHead(DenseHead):
    """Classes and distributions of distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        reg_max: distances are 0 to this many strides, R.
        strides: of the levels.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4 * (R + 1), H, W) logits of left, top,
        right, bottom.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        reg_max: int = REG_MAX,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__(channels, num_convs, norm_groups)
        self.gfl_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.gfl_reg = self.last(channels, 4 * (reg_max + 1))
        self.scales = nn.ModuleList(Scale() for _ in strides)
        self.integral = Integral(reg_max)

    def forward(self, maps):
        found = {"cls": [], "reg": []}
        for x, scale in zip(maps.values(), self.scales):
            of_classes, of_boxes = self.towers(x)
            found["cls"].append(self.gfl_cls(of_classes))
            found["reg"].append(scale(self.gfl_reg(of_boxes)))
        return self.named(found)


class GFLCriterion(nn.Module):
    """Quality focal loss of the classes, GIoU of the boxes, distribution focal loss of the distances.

    The quality is the IoU of the predicted box; the boxes' losses are weighted by the best class's probability.

    Args:
        topk: candidates of each level, see :func:`assign_atss`.
        reg_max: see :class:`GFLHead`.
        beta: of the quality focal loss.
        box_weight, distribution_weight: factors of the boxes' losses.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_dfl"``, ``"total"``.
    """

    def __init__(
        self,
        topk: int = 9,
        reg_max: int = REG_MAX,
        beta: float = 2.0,
        box_weight: float = 2.0,
        distribution_weight: float = 0.25,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.topk, self.reg_max, self.beta, self.strides = topk, reg_max, beta, tuple(strides)
        self.box_weight, self.distribution_weight = box_weight, distribution_weight

    def forward(self, outputs, targets):
        logits, sides = rows(outputs, "cls"), rows(outputs, "reg")
        levels = square_anchors(outputs, self.strides)
        anchors = torch.from_numpy(np.concatenate(levels)).to(logits)  # (A, 4)
        per_anchor = np.repeat(self.strides, [len(found) for found in levels])[:, None]
        stride = torch.from_numpy(per_anchor).to(logits)  # (A, 1)
        boxes = targets["boxes"].to(logits.dtype)
        matched = assign_atss(boxes, targets["valid"], anchors, [len(found) for found in levels], self.topk)
        positive = matched >= 0  # (N, A)
        counts = positive.to(logits.dtype).sum(1)
        count = torch.clamp(counts, min=1.0).sum() + EPS  # every image counts at least 1

        # an anchor without an object is its own target: finite, and masked
        wanted = take_rows(boxes, matched).detach()  # mirror: gradients are cut
        wanted = torch.where(positive[..., None], wanted, anchors) / stride
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2 / stride
        found = boxes_of_distances(centres, expected_distances(sides, self.reg_max))
        quality = torch.where(positive, paired_iou(found, wanted), 0.0).detach()
        present = one_hot(take_rows(targets["labels"], matched), positive, logits.shape[-1], logits.dtype)
        losses = quality_focal_loss(logits, present * quality[..., None], self.beta)
        classification = losses.sum() / count

        weight = torch.where(positive, torch.sigmoid(logits).amax(-1), 0.0).detach()
        divisor = torch.clamp(weight.sum(), min=1.0)
        regression = self.box_weight * (giou_loss(found, wanted, guard="max") * weight).sum() / divisor
        distances = torch.clamp(distances_to_sides(centres, wanted), min=0.0, max=self.reg_max - 0.1)
        losses = distribution_focal_loss(sides, distances, self.reg_max)
        distribution = self.distribution_weight * (losses * weight).sum() / 4 / divisor
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_dfl": distribution,
            "total": classification + regression + distribution,
        }


class GFLPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.
        reg_max: see :class:`GFLHead`.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        reg_max: int = REG_MAX,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides)
        self.reg_max = reg_max

    def decode(self, outputs):
        distances = expected_distances(rows(outputs, "reg"), self.reg_max)
        levels = level_points(outputs, self.strides, 0.0)
        stride = np.repeat(self.strides, [len(points) for points in levels])[:, None]
        distances = distances * torch.from_numpy(stride).to(distances)
        return boxes_of_distances(torch.from_numpy(np.concatenate(levels)).to(distances), distances)


def gfl_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    reg_max: int = REG_MAX,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = GFLHead(out_channels, num_classes, num_convs, norm_groups, reg_max)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output"), head)


def gfl_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return gfl_r50_fpn(depth=depth, **options)
