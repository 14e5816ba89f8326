"""CenterNet over a pyramid: every cell predicts how near an object's middle is, and its distances to the four sides.

"Probabilistic two-stage detection", 2021, arXiv:2103.07461, section 4.1; it is the first stage there.
Parameter names: mmdet ``dense_heads/centernet_update_head.py`` (Apache-2.0).
What to look at: boxes are learnt at the cells around an object's middle on the levels that suit its size; for classes,
cells whose boxes are already good also count as middles.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.iou import box_area
from torch_impl.boxes.points import boxes_of_distances, distances_to_sides
from torch_impl.detection._dense import (
    EPS,
    LEVELS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    dense_backbone,
    level_points,
    rows,
)
from torch_impl.detection.fcos import FCOSPostProcess
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.scale import Scale
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import giou_loss
from torch_impl.necks.fpn import FPN

__all__ = [
    "CenterNetUpdateCriterion",
    "CenterNetUpdateFPN",
    "CenterNetUpdateHead",
    "centernet_update_postprocess",
    "centernet_update_r18",
    "centernet_update_r50_caffe",
]

RANGES = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 1e9))  # of half an object's diagonal, in pixels
WINDOW = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])  # from an object's middle, in cells
NOWHERE = 1e9  # distance and loss of an ignored cell
LEAST = 1e-4  # lower bound of targets, which are 0 below it, and of probabilities
TINY = 1e-12  # in the logarithms


class CenterNetUpdateFPN(FPN):
    """:class:`FPN` of P3 to P7, the last two from P5, with Caffe2's initial values, by the number of inputs.

    Args:
        in_channels, out_channels: as there.

    Inputs, returns: as for :class:`FPN`.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256):
        super().__init__(in_channels, out_channels, len(LEVELS), "on_output", True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)


class CenterNetUpdateHead(DenseHead):
    """Classes and distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        in_pixels: whether distances are multiplied by the stride, as in mmdet's evaluation; otherwise they are in
            strides.
        strides: of the levels.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) left, top, right, bottom.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        in_pixels: bool = False,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__(channels, num_convs, norm_groups)
        self.in_pixels, self.strides = in_pixels, tuple(strides)
        self.conv_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.conv_reg = self.last(channels, 4)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, maps):
        found = {"cls": [], "reg": []}
        for x, scale, stride in zip(maps.values(), self.scales, self.strides):
            of_classes, of_boxes = self.towers(x)
            found["cls"].append(self.conv_cls(of_classes))
            found["reg"].append(F.relu(scale(self.conv_reg(of_boxes))) * (stride if self.in_pixels else 1))
        return self.named(found)


class CenterNetUpdateCriterion(nn.Module):
    """Focal loss of the classes against peaks, GIoU loss of the boxes.

    An object is a peak in the map of its class on every level, 1 in the cell of its middle. Its box is learnt at those
    of the 3x3 cells around that lie inside it, on the levels whose range contains its size; of several objects the
    nearest counts. Positive for the class are its middle's cells on these levels, and those of all levels' 3x3 cells
    whose boxes are among the best.

    Args:
        overlap: the higher, the narrower the peaks: their variance is ((1 - overlap) / (1 + overlap)) ** 2 of the area.
        radius: lower bound of the root of twice this variance, in pixels.
        more_loss: upper bound of the GIoU loss of a positive cell's box.
        more_cells: rank, among 45 cells, that a positive cell's box must beat.
        box_weight: of the loss of boxes.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. In an image without objects every target is 0; mmdet, which excludes
        such images from training, would use the number of classes.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        overlap: float = 0.8,
        radius: float = 4.0,
        more_loss: float = 0.2,
        more_cells: int = 9,
        box_weight: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.overlap, self.radius, self.more_loss, self.more_cells = overlap, radius, more_loss, more_cells
        self.box_weight, self.strides = box_weight, tuple(strides)

    def forward(self, outputs, targets):
        logits, distances = rows(outputs, "cls"), rows(outputs, "reg")  # (N, P, K), (N, P, 4)
        dtype, classes = logits.dtype, logits.shape[-1]
        boxes, labels, valid = targets["boxes"].to(dtype), targets["labels"], targets["valid"]
        heat, wanted, positive = self.assign(outputs, boxes, labels, valid, classes)

        chance = torch.clamp(torch.sigmoid(logits), min=LEAST, max=1 - LEAST)
        elsewhere = -torch.log(1 - chance + TINY) * chance.square() * (1 - heat) ** 4
        index, chosen = self.good_cells(outputs, distances.detach(), boxes, valid)  # mirror: gradients are cut
        index = (index * classes + labels[..., None]).flatten(1)
        found = take_rows(chance.flatten(1), index)
        at_peaks = torch.where(chosen.flatten(1), -torch.log(found + TINY) * (1 - found).square(), 0.0)
        count = torch.clamp(chosen.to(dtype).sum(), min=1.0) + EPS
        classification = (0.25 * at_peaks.sum() + 0.75 * elsewhere.sum()) / count

        # a cell without an object has a dummy box for prediction and target: finite, and masked
        wanted, distances = (torch.where(positive[..., None], x, 1.0) for x in (wanted, distances))
        losses = torch.where(positive, self.box_losses(distances, wanted), 0.0)
        count = torch.clamp(positive.to(dtype).sum(), min=1.0) + EPS
        regression = self.box_weight * losses.sum() / count
        return {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}

    def assign(self, outputs, boxes, labels, valid, classes: int):
        """The peaks (N, P, K); the distances (N, P, 4) in strides that a cell learns, and whether it does, (N, P)."""
        levels = level_points(outputs, self.strides)
        points = torch.from_numpy(np.concatenate(levels)).to(boxes)  # (P, 2)
        per_level = np.array([(*RANGES[i], self.strides[i]) for i, found in enumerate(levels) for _ in found])
        least, most, stride = torch.from_numpy(per_level).to(boxes).unbind(-1)

        sides = distances_to_sides(points, boxes[:, :, None])  # (N, M, P, 4)
        centre, reach = self.centre_and_reach(boxes)
        middle = (torch.floor(centre[:, :, None] / stride[:, None]) + 0.5) * stride[:, None]  # (N, M, P, 2)
        away = (points - middle).abs()
        mine = (sides > 0).all(-1) & (away <= stride[:, None]).all(-1) & valid[..., None]
        mine = mine & (reach >= least) & (reach <= most)

        distance = torch.where((away == 0).all(-1), 0.0, (points - centre[:, :, None]).square().sum(-1))
        share = (1 - self.overlap) / (1 + self.overlap)
        distance = distance / torch.clamp(2 * share**2 * box_area(boxes), min=self.radius**2)[..., None]
        peaks = torch.exp(-distance)
        peaks = torch.where(valid[..., None] & (peaks >= LEAST), peaks, 0.0)  # (N, M, P)
        of_class = (labels[..., None] == torch.arange(classes, device=labels.device)).to(peaks.dtype)  # (N, M, K)
        heat = (peaks[..., None] * of_class[:, :, None]).amax(1)

        nearest = argmax(-torch.where(mine, distance, NOWHERE), 1)  # the first of equal ones
        wanted = distances_to_sides(points, take_rows(boxes, nearest)) / stride[:, None]
        return heat, wanted, mine.any(1)

    def good_cells(self, outputs, distances, boxes, valid):
        """The 3x3 cells around the objects' middles on all levels, (N, M, 45), and which are positive."""
        sizes = np.array([map_size(outputs[f"cls_{level}"])[::-1] for level in LEVELS])  # width, height
        starts = np.concatenate(([0], np.cumsum(sizes.prod(1))[:-1]))
        places = torch.from_numpy(np.column_stack((sizes, starts))).to(valid.device)
        width, height, start = places[..., None].unbind(1)  # (5, 1) each
        least, most, stride = (
            torch.from_numpy(np.column_stack((RANGES, self.strides))).to(boxes).unbind(-1)
        )  # (5,) each
        window = torch.from_numpy(WINDOW).to(boxes)

        centre, reach = self.centre_and_reach(boxes)
        cell = torch.floor(centre[:, :, None] / stride[:, None])  # (N, M, 5, 2)
        sides = distances_to_sides((cell + 0.5) * stride[:, None], boxes[:, :, None])  # (N, M, 5, 4)
        suits = (sides >= 0).all(-1) & (reach >= least) & (reach <= most)
        wanted = (sides / stride[:, None])[..., None, :] + torch.cat((window, -window), -1)  # (N, M, 5, 9, 4)
        column, row = (cell[..., None, :] + window).long().unbind(-1)  # (N, M, 5, 9)
        there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        there = there & (wanted >= 0).all(-1) & valid[..., None, None]
        middle = there & suits[..., None] & (window == 0).all(-1)
        there, middle, index = (x.flatten(2) for x in (there, middle, start + row * width + column))  # (N, M, 45)
        index = torch.where(there, index, 0)

        found = take_rows(distances, index.flatten(1)).unflatten(1, index.shape[1:])  # (N, M, 45, 4)
        losses = self.box_losses(found, torch.clamp(wanted.flatten(2, 3), min=0.0))
        losses = torch.where(there, losses, NOWHERE)
        losses = torch.where(middle, 0.0, losses)
        limit = torch.clamp(-top_k(-losses, self.more_cells)[0][..., -1:], max=self.more_loss)
        return index, losses < limit

    @staticmethod
    def centre_and_reach(boxes):
        """Middles (N, M, 2) of boxes and halves of their diagonals (N, M, 1)."""
        size = boxes[..., 2:] - boxes[..., :2]
        return (boxes[..., :2] + boxes[..., 2:]) / 2, torch.sqrt(size.square().sum(-1, keepdim=True)) / 2

    @staticmethod
    def box_losses(distances, wanted):
        """GIoU loss of boxes given by their distances from a point.  (..., 4) twice -> (...)."""
        origin = torch.zeros_like(distances[..., :2])
        boxes = (boxes_of_distances(origin, x) for x in (distances, wanted))
        return giou_loss(*boxes, eps=1e-6, guard="max")


def centernet_update_postprocess(**options) -> FCOSPostProcess:
    """The best boxes, suppressed by class."""
    return FCOSPostProcess(**{"iou_threshold": 0.6, "norm_on_bbox": True, **options})


def centernet_update_r18(
    depth: int = 18,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    in_pixels: bool = False,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = CenterNetUpdateHead(out_channels, num_classes, num_convs, norm_groups, in_pixels)
    return DenseDetector(backbone, CenterNetUpdateFPN(backbone.channels, out_channels), head)


def centernet_update_r50_caffe(depth: int = 50, stride_in_1x1: bool = True, **options) -> DenseDetector:
    return centernet_update_r18(depth=depth, stride_in_1x1=stride_in_1x1, **options)
