"""RepPoints' baseline: the nine points are a grid on a box that is regressed twice.

"RepPoints: Point Set Representation for Object Detection", 2019, arXiv:1904.11490, section 5.2.
Parameter names: mmdet ``dense_heads/reppoints_head.py`` with ``use_grid_points`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow: the values of a cell are on axis 1, there on the last axis.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.assignment import assign_max_iou
from torch_impl.boxes.iou import box_area, pairwise_iou
from torch_impl.detection._dense import LEVELS, PRIOR_BIAS, DenseDetector, DenseHead, dense_backbone, level_points, rows
from torch_impl.detection.reppoints import (
    FOLLOWED,
    POINTS,
    TAPS,
    UNIT,
    PointConv,
    RepPointsCriterion,
    RepPointsPostProcess,
)
from torch_impl.layers.initialization import normal
from torch_impl.necks.fpn import FPN

__all__ = [
    "RepPointsCriterion",
    "RepPointsGridCriterion",
    "RepPointsGridHead",
    "RepPointsPostProcess",
    "reppoints_bbox_r50_center_fpn_gn_grid",
    "reppoints_bbox_r50_fpn_gn_grid",
]

LEAST_SIZE = 1e-6  # of a box that is regressed again, in strides


def regressed(numbers, centre, size):
    """Boxes that are moved and scaled.

    Args:
        numbers: (N, 4, H, W) shift of x and y in sizes, logarithms of the scales of width and height.
        centre, size: x and y, width and height of the previous boxes, (N, 2, H, W) or one number for all.

    Returns:
        first corner and size (N, 2, H, W).
    """
    wide = size * torch.exp(numbers[:, 2:])  # mirror: axis 1
    return centre + size * numbers[:, :2] - wide / 2, wide


class RepPointsGridHead(DenseHead):
    """Classes and two boxes of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"init_p3"`` ... and ``"reg_p3"`` ... (N, 4, H, W), the first
        and the refined box: xyxy from the cell's point, in strides.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 3, norm_groups: int | None = 32):
        super().__init__(channels, num_convs, norm_groups)
        self.reppoints_cls_conv = PointConv(channels)
        self.reppoints_cls_out = nn.Conv2d(channels, num_classes, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.reppoints_pts_init_out = nn.Conv2d(channels, 4, 1)
        self.reppoints_pts_refine_conv = PointConv(channels)
        self.reppoints_pts_refine_out = nn.Conv2d(channels, 4, 1)
        normal(self, 0.01)
        nn.init.constant_(self.reppoints_cls_out.bias, PRIOR_BIAS)

    def forward(self, maps):
        found = {"cls": [], "init": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x)
            first = self.reppoints_pts_init_out(F.relu(self.reppoints_pts_init_conv(of_boxes)))
            corner, size = regressed(first, 0.0, float(UNIT))
            taps = torch.from_numpy(TAPS).to(first)[:, None, None]
            grid = (taps + 1) / 2
            # y and x of the nine points
            points = corner.flip(1).repeat(1, POINTS, 1, 1) + size.flip(1).repeat(1, POINTS, 1, 1) * grid
            fixed = points.detach()  # mirror: Gradients are cut
            offset = (1 - FOLLOWED) * fixed + FOLLOWED * points - taps
            logits = self.reppoints_cls_out(F.relu(self.reppoints_cls_conv(of_classes, offset)))
            second = self.reppoints_pts_refine_out(F.relu(self.reppoints_pts_refine_conv(of_boxes, offset)))
            centre, before = (corner + size / 2).detach(), size.clamp(min=LEAST_SIZE).detach()
            refined, wide = regressed(second, centre, before)
            found["cls"].append(logits)
            found["init"].append(torch.cat((corner, corner + size), 1))
            found["reg"].append(torch.cat((refined, refined + wide), 1))
        return self.named(found)


class RepPointsGridCriterion(RepPointsCriterion):
    """As :class:`RepPointsCriterion`, but the first box is learned where a square of four strides overlaps an object.

    Args, inputs and returns: as there; ``positive`` and ``negative`` are overlaps of both assignments.
    """

    def forward(self, outputs, targets):
        found = super().forward(outputs, targets)
        first, levels = rows(outputs, "init"), level_points(outputs, self.strides, 0.0)
        counts = [len(points) for points in levels]
        points, stride = np.tile(np.concatenate(levels), 2), np.repeat(self.strides, counts)[:, None]
        points, unit = torch.from_numpy(points).to(first), torch.from_numpy(UNIT * stride).to(first)
        boxes = targets["boxes"].to(first.dtype)
        squares = points + unit * torch.tensor([-0.5, -0.5, 0.5, 0.5], dtype=first.dtype, device=first.device)
        valid = targets["valid"] & (box_area(boxes) > 0)
        matched = assign_max_iou(pairwise_iou(boxes, squares, 1e-6), valid, self.positive, self.negative, "forced")
        losses = self._box_loss(first * unit / UNIT + points, boxes, matched, unit)
        losses = self.init_weight * losses / self._count(matched, first.dtype)
        total = found["loss_cls"] + losses + found["loss_pts_refine"]
        return {**found, "loss_pts_init": losses, "total": total}


def reppoints_bbox_r50_fpn_gn_grid(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 3,
    norm_groups: int = 32,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    neck = FPN(backbone.channels, out_channels, len(LEVELS), "on_input", norm="group", norm_groups=norm_groups)
    return DenseDetector(backbone, neck, RepPointsGridHead(out_channels, num_classes, num_convs, norm_groups))


def reppoints_bbox_r50_center_fpn_gn_grid(**options) -> DenseDetector:
    """The same network, where the point nearest to an object learns the first box, as with points."""
    return reppoints_bbox_r50_fpn_gn_grid(**options)
