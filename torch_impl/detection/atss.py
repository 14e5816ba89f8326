"""ATSS: one square anchor per cell of a pyramid, and objects that choose their anchors by statistics.

"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", 2019,
arXiv:1912.02424.
Parameter names: mmdet ``dense_heads/atss_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.atss import assign_atss
from torch_impl.boxes.coders import DeltaCoder
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
    level_points,
    one_hot,
    rows,
)
from torch_impl.detection.fcos import centerness
from torch_impl.layers.rows import take_rows
from torch_impl.layers.scale import Scale
from torch_impl.losses.box import giou_loss
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.losses.focal import sigmoid_focal_loss

__all__ = ["ATSSCriterion", "ATSSHead", "ATSSPostProcess", "atss_r50_fpn", "atss_r101_fpn", "square_anchors"]

STDS = (0.1, 0.1, 0.2, 0.2)
SIZE = 8  # size of the anchors, in strides


def square_anchors(outputs, strides: tuple[int, ...], size: float = SIZE) -> list[np.ndarray]:
    """One square (H * W, 4) xyxy around the upper left corner of every cell, of each level."""
    half = [np.full(2, size * stride / 2) for stride in strides]
    points = level_points(outputs, strides, 0.0)
    return [np.concatenate((p - h, p + h), -1) for p, h in zip(points, half)]


class ATSSHead(DenseHead):
    """Classes, box deltas and centredness of every anchor, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        strides: of the levels.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) deltas,
        ``"ctr_p3"`` ... (N, 1, H, W) logits.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__(channels, num_convs, norm_groups)
        self.atss_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.atss_reg = self.last(channels, 4)
        self.atss_centerness = self.last(channels, 1)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, maps):
        found = {"cls": [], "reg": [], "ctr": []}
        for x, scale in zip(maps.values(), self.scales):
            of_classes, of_boxes = self.towers(x)
            found["cls"].append(self.atss_cls(of_classes))
            found["reg"].append(scale(self.atss_reg(of_boxes)))
            found["ctr"].append(self.atss_centerness(of_boxes))
        return self.named(found)


class ATSSCriterion(nn.Module):
    """Focal loss of the classes, GIoU of the boxes weighted by centredness, cross-entropy of the centredness.

    Args:
        topk: candidates of each level, see :func:`assign_atss`.
        alpha, gamma: of the focal loss.
        box_weight: factor of the boxes' loss.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"total"``.
    """

    def __init__(
        self,
        topk: int = 9,
        alpha: float = 0.25,
        gamma: float = 2.0,
        box_weight: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.topk, self.alpha, self.gamma, self.box_weight = topk, alpha, gamma, box_weight
        self.strides, self.coder = tuple(strides), DeltaCoder(STDS, clamp="both")

    def forward(self, outputs, targets):
        logits, deltas, central = rows(outputs, "cls"), rows(outputs, "reg"), rows(outputs, "ctr")[..., 0]
        levels = square_anchors(outputs, self.strides)
        anchors = torch.from_numpy(np.concatenate(levels)).to(logits)  # (A, 4)
        boxes = targets["boxes"].to(logits.dtype)
        matched = assign_atss(boxes, targets["valid"], anchors, [len(found) for found in levels], self.topk)
        positive = matched >= 0  # (N, A)
        counts = positive.to(logits.dtype).sum(1)
        count = torch.clamp(counts, min=1.0).sum() + EPS  # every image counts at least 1

        wanted = one_hot(take_rows(targets["labels"], matched), positive, logits.shape[-1], logits.dtype)
        classification = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma).sum() / count

        # an anchor without an object is its own target: finite, and masked
        wanted = take_rows(boxes, matched).detach()  # mirror: gradients are cut
        wanted = torch.where(positive[..., None], wanted, anchors)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        weight = torch.where(positive, centerness(distances_to_sides(centres, wanted)), 0.0)
        losses = giou_loss(self.coder.decode(deltas, anchors), wanted, guard="max")
        regression = self.box_weight * (losses * weight).sum() / torch.clamp(weight.sum(), min=1.0)
        centre = torch.where(positive, binary_cross_entropy(central, weight), 0.0).sum() / count
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_centerness": centre,
            "total": classification + regression + centre,
        }


class ATSSPostProcess(DensePostProcess):
    """The best boxes, the class's probability times that of the centredness, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides)
        self.coder = DeltaCoder(STDS, clamp="both")

    def decode(self, outputs):
        deltas = rows(outputs, "reg")
        anchors = torch.from_numpy(np.concatenate(square_anchors(outputs, self.strides))).to(deltas)
        return self.coder.decode(deltas, anchors)


def atss_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = ATSSHead(out_channels, num_classes, num_convs, norm_groups)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output"), head)


def atss_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return atss_r50_fpn(depth=depth, **options)
