"""RepPoints: an object is nine points; deformable convolutions sample at the points, and move them once more.

"RepPoints: Point Set Representation for Object Detection", 2019, arXiv:1904.11490.
Parameter names: mmdet ``dense_heads/reppoints_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow: the nine points of a cell are on axis 1, there on the last one.
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.assignment import IGNORED, assign_max_iou
from torch_impl.boxes.iou import box_area, pairwise_iou
from torch_impl.detection._dense import (
    EPS,
    LEVELS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    level_points,
    one_hot,
    rows,
)
from torch_impl.layers.deform_conv import deform_conv2d
from torch_impl.layers.initialization import normal
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.focal import sigmoid_focal_loss
from torch_impl.necks.fpn import FPN

__all__ = [
    "PointConv",
    "RepPointsCriterion",
    "RepPointsHead",
    "RepPointsPostProcess",
    "boxes_of_points",
    "reppoints_minmax_r50_fpn_gn",
    "reppoints_moment_r50_fpn",
    "reppoints_moment_r50_fpn_gn",
    "reppoints_partial_minmax_r50_fpn_gn",
]

POINTS = 9
# positions of the taps of a 3x3 kernel, y and x of each
TAPS = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1), indexing="ij"), -1).reshape(-1)
FOLLOWED = 0.1  # share of the classes' and the refinement's gradient that moves the first points
LEARNED = 0.01  # share of the gradient that moves the moments' transfer
FOUR = 4  # points that the partial box encloses
UNIT = 4  # of the losses, and size of an object of level 0, in strides
FARTHEST = 1e8  # distance of an object that a point does not belong to


class PointConv(nn.Module):
    """A deformable convolution with a kernel of its own and given offsets.

    Args:
        channels: channels of the map.

    x: (N, C, H, W), offset: (N, 18, H, W) -> (N, C, H, W).
    """

    keeps_initial_values = True

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.kaiming_uniform_(self.weight)

    def forward(self, x, offset):
        return deform_conv2d(x, offset, self.weight, padding=1, border_grad="mmcv")


def boxes_of_points(points, method: str = "moment", moment_transfer=None):
    """The box that the points of a cell represent.

    Args:
        points: (N, 18, H, W), y and x of nine points.
        method: "moment", their mean plus and minus their deviations times the exponentials of two numbers;
            "minmax", around all of them; "partial_minmax", around the first four.
        moment_transfer: (2,) the numbers for the width and the height, of "moment" only.

    Returns:
        (N, 4, H, W) xyxy.
    """
    x, y = points[:, 1::2], points[:, 0::2]  # mirror: axis 1
    if method == "moment":
        transfer = LEARNED * moment_transfer + (1 - LEARNED) * moment_transfer.detach()  # mirror: gradients are cut
        (x, width), (y, height) = moments(x), moments(y)
        width, height = width * torch.exp(transfer[0]), height * torch.exp(transfer[1])
        return torch.cat((x - width, y - height, x + width, y + height), 1)
    if method == "partial_minmax":
        x, y = x[:, :FOUR], y[:, :FOUR]
    return torch.cat([side(of, 1, True) for side in (torch.amin, torch.amax) for of in (x, y)], 1)


def moments(x):
    """(N, 9, H, W) -> mean and unbiased deviation, (N, 1, H, W) each."""
    mean = x.mean(1, True)
    variance = (x - mean).square().sum(1, True) / (POINTS - 1)
    # the root has no gradient where all points coincide, as in the reference
    return mean, torch.where(variance > 0, torch.sqrt(torch.where(variance > 0, variance, 1.0)), 0.0)


class RepPointsHead(DenseHead):
    """Classes and two boxes of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        method: see :func:`boxes_of_points`.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"init_p3"`` ... and ``"reg_p3"`` ... (N, 4, H, W), the box of
        the first and of the refined points: xyxy from the cell's point, in strides.
    Raises: ValueError if ``method`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 3,
        norm_groups: int | None = 32,
        method: str = "moment",
    ):
        super().__init__(channels, num_convs, norm_groups)
        if method not in ("moment", "minmax", "partial_minmax"):
            raise ValueError(f"method={method!r} must be 'moment', 'minmax' or 'partial_minmax'")
        self.method = method
        self.moment_transfer = nn.Parameter(torch.zeros(2)) if method == "moment" else None
        self.reppoints_cls_conv = PointConv(channels)
        self.reppoints_cls_out = nn.Conv2d(channels, num_classes, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.reppoints_pts_init_out = nn.Conv2d(channels, 2 * POINTS, 1)
        self.reppoints_pts_refine_conv = PointConv(channels)
        self.reppoints_pts_refine_out = nn.Conv2d(channels, 2 * POINTS, 1)
        normal(self, 0.01)
        nn.init.constant_(self.reppoints_cls_out.bias, PRIOR_BIAS)

    def forward(self, maps):
        found = {"cls": [], "init": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x)
            first = self.reppoints_pts_init_out(F.relu(self.reppoints_pts_init_conv(of_boxes)))
            fixed = first.detach()
            taps = torch.from_numpy(TAPS).to(first)[:, None, None]
            offset = (1 - FOLLOWED) * fixed + FOLLOWED * first - taps
            logits = self.reppoints_cls_out(F.relu(self.reppoints_cls_conv(of_classes, offset)))
            refined = self.reppoints_pts_refine_out(F.relu(self.reppoints_pts_refine_conv(of_boxes, offset))) + fixed
            found["cls"].append(logits)
            found["init"].append(boxes_of_points(first, self.method, self.moment_transfer))
            found["reg"].append(boxes_of_points(refined, self.method, self.moment_transfer))
        return self.named(found)


def assign_nearest(boxes, valid, points, level_of, levels: int):
    """Assign to every object the point nearest to its centre, on the level that suits its size.

    Args:
        boxes: (N, M, 4) xyxy in pixels.
        valid: (N, M) bool, which slots hold objects.
        points: (P, 2) in pixels.
        level_of: (P,) index of every point's level.
        levels: number of levels.

    Returns:
        (N, P) int64: the object, the nearer of two; -1 for none.
    """
    size = torch.clamp(boxes[..., 2:] - boxes[..., :2], min=1e-6)
    # the mean of the logarithms of both sides in units of 4 pixels, truncated to an integer: powers of 4 of the area
    area = size[..., 0] * size[..., 1] / UNIT**2
    suits = sum((area >= 4.0 ** (3 + i)).to(torch.int64) for i in range(1, levels))  # (N, M)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (points - centre[:, :, None]) / size[:, :, None]
    distance = torch.sqrt(away.square().sum(-1))  # (N, M, P)
    distance = torch.where(suits[..., None] == level_of, distance, FARTHEST)
    every = torch.arange(points.shape[0], device=boxes.device)
    mine = (argmax(-distance, 2)[..., None] == every) & valid[..., None]
    distance = torch.where(mine, distance, FARTHEST)
    return torch.where(mine.any(1), argmax(-distance, 1), -1)


class RepPointsCriterion(nn.Module):
    """Focal loss of the classes and smooth L1 loss of both boxes.

    The first box is learned by the point nearest to an object, the class and the second box by the points whose first
    boxes overlap it.

    Args:
        alpha, gamma: of the focal loss.
        beta: of the smooth L1 losses, in units of four strides.
        init_weight, refine_weight: factors of the losses of the first and of the second box.
        positive, negative: overlaps of the second assignment, see :func:`assign_max_iou`.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_pts_init"``, ``"loss_pts_refine"``, ``"total"``.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.11,
        init_weight: float = 0.5,
        refine_weight: float = 1.0,
        positive: float = 0.5,
        negative: float = 0.4,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.alpha, self.gamma, self.beta, self.strides = alpha, gamma, beta, tuple(strides)
        self.init_weight, self.refine_weight = init_weight, refine_weight
        self.positive, self.negative = positive, negative

    def forward(self, outputs, targets):
        logits = rows(outputs, "cls")
        levels = level_points(outputs, self.strides, 0.0)
        counts = [len(points) for points in levels]
        points = torch.from_numpy(np.concatenate(levels)).to(logits)  # (P, 2)
        level_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(targets["labels"])
        stride = torch.from_numpy(np.repeat(self.strides, counts)[:, None]).to(logits)
        first, second = (rows(outputs, key) * stride + torch.cat((points, points), 1) for key in ("init", "reg"))
        boxes = targets["boxes"].to(logits.dtype)

        nearest = assign_nearest(boxes, targets["valid"], points, level_of, len(LEVELS))  # (N, P)
        valid = targets["valid"] & (box_area(boxes) > 0)
        iou = pairwise_iou(boxes, first.detach(), 1e-6)  # mirror: gradients are cut
        matched = assign_max_iou(iou, valid, self.positive, self.negative, "forced")
        count = self._count(matched, logits.dtype)

        wanted = one_hot(take_rows(targets["labels"], matched), matched >= 0, logits.shape[-1], logits.dtype)
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma).sum(-1)
        classification = torch.where(matched == IGNORED, 0.0, losses).sum() / count
        unit = UNIT * stride
        of_first = self._box_loss(first, boxes, nearest, unit) / self._count(nearest, logits.dtype)
        of_first, of_second = self.init_weight * of_first, self._box_loss(second, boxes, matched, unit) / count
        of_second = self.refine_weight * of_second
        return {
            "loss_cls": classification,
            "loss_pts_init": of_first,
            "loss_pts_refine": of_second,
            "total": classification + of_first + of_second,
        }

    def _count(self, matched, dtype):
        """Points with an object; every image counts at least 1."""
        counts = (matched >= 0).to(dtype).sum(1)
        return counts.clamp(min=1.0).sum() + EPS

    def _box_loss(self, found, boxes, matched, unit):
        losses = smooth_l1_loss(found / unit, take_rows(boxes, matched) / unit, self.beta)
        return torch.where(matched >= 0, losses, 0.0).sum()


class RepPointsPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        found, levels = rows(outputs, "reg"), level_points(outputs, self.strides, 0.0)
        stride = np.repeat(self.strides, [len(points) for points in levels])[:, None]
        points = torch.from_numpy(np.concatenate(levels)).to(found)
        return found * torch.from_numpy(stride).to(found) + torch.cat((points, points), 1)


def reppoints_moment_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 3,
    norm_groups: int | None = None,
    method: str = "moment",
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    norm = {} if norm_groups is None else {"norm": "group", "norm_groups": norm_groups}
    neck = FPN(backbone.channels, out_channels, len(LEVELS), "on_input", **norm)
    return DenseDetector(backbone, neck, RepPointsHead(out_channels, num_classes, num_convs, norm_groups, method))


def reppoints_moment_r50_fpn_gn(norm_groups: int = 32, **options) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, **options)


def reppoints_minmax_r50_fpn_gn(norm_groups: int = 32, method: str = "minmax", **options) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, method=method, **options)


def reppoints_partial_minmax_r50_fpn_gn(
    norm_groups: int = 32, method: str = "partial_minmax", **options
) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, method=method, **options)
