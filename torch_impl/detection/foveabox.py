"""FoveaBox: cells near the middle of an object predict its class and the logarithms of its distances.

"FoveaBox: Beyond Anchor-based Object Detector", 2019, arXiv:1904.03797.
Parameter names: mmdet ``dense_heads/fovea_head.py`` (Apache-2.0). The ``_align`` variant samples the map of the classes
where the predicted box is.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
- The deformable kernel belongs to a convolution that is never called; Keras must be told to build it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.coders import clip_boxes
from torch_impl.boxes.iou import box_area
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
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.deform_conv import deform_conv2d
from torch_impl.layers.initialization import normal
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.focal import sigmoid_focal_loss

__all__ = [
    "FeatureAlign",
    "FoveaAlignHead",
    "FoveaCriterion",
    "FoveaHead",
    "FoveaPostProcess",
    "fovea_r50_fpn",
    "fovea_r50_fpn_gn_align",
    "fovea_r101_fpn",
]

EDGES = (16, 32, 64, 128, 256)  # the unit of distances on every level, in pixels
RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))  # of the square root of the area, in pixels
NOWHERE = 1e12  # area of an object that a cell does not belong to


class FeatureAlign(nn.Module):
    """A deformable convolution whose offsets follow from the predicted distances.

    Args:
        channels: channels of the map.
        kernel_size: of the convolution.
        deform_groups: channel groups with separate offsets.

    x: (N, C, H, W), distances: (N, 4, H, W) -> (N, C, H, W).
    """

    keeps_initial_values = True

    def __init__(self, channels: int, kernel_size: int = 3, deform_groups: int = 4):
        super().__init__()
        self.padding, self.deform_groups = kernel_size // 2, deform_groups
        self.conv_offset = nn.Conv2d(4, 2 * deform_groups * kernel_size**2, 1, bias=False)
        self.conv_adaption = nn.Conv2d(channels, channels, kernel_size, bias=False)
        nn.init.normal_(self.conv_offset.weight, std=0.1)
        nn.init.normal_(self.conv_adaption.weight, std=0.01)

    def forward(self, x, distances):
        return F.relu(
            deform_conv2d(
                x,
                self.conv_offset(distances),
                self.conv_adaption.weight,  # mirror: never called
                padding=self.padding,
                deform_groups=self.deform_groups,
                border_grad="mmcv",
            )
        )


class FoveaHead(DenseHead):
    """Classes and distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) logarithms of left, top, right,
        bottom, in the level's unit.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4):
        super().__init__(channels, num_convs, None)
        self.conv_reg = self.last(channels, 4)
        self.conv_cls = self.last(channels, num_classes, PRIOR_BIAS)

    def forward(self, maps):
        found = {"cls": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x)
            found["cls"].append(self.conv_cls(of_classes))
            found["reg"].append(self.conv_reg(of_boxes))
        return self.named(found)


class FoveaAlignHead(nn.Module):
    """:class:`FoveaHead` with group normalisation, and a map of the classes that is sampled where the box is.

    Args:
        channels: channels of the levels and of the convolutions of the boxes' tower.
        num_classes: classes K.
        num_convs: convolutions of the boxes' tower.
        norm_groups: groups of the group normalisation.
        deform_groups: see :class:`FeatureAlign`.
        wide: factor of the channels of the classes' two convolutions.

    Inputs and returns: see :class:`FoveaHead`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        deform_groups: int = 4,
        wide: int = 4,
    ):
        super().__init__()
        norm = dict(norm="group", norm_groups=norm_groups)
        self.reg_convs = nn.ModuleList(ConvModule(channels, channels, 3, 1, 1, **norm) for _ in range(num_convs))
        self.conv_reg = DenseHead.last(channels, 4)
        self.feature_adaption = FeatureAlign(channels, 3, deform_groups)
        self.cls_convs = nn.ModuleList(
            [
                ConvModule(channels, channels * wide, 3, 1, 1, **norm),
                ConvModule(channels * wide, channels * wide, 1, **norm),
            ]
        )
        normal(self, 0.01)
        self.conv_cls = DenseHead.last(channels * wide, num_classes, PRIOR_BIAS)

    def forward(self, maps):
        found = {"cls": [], "reg": []}
        for x in maps.values():
            y = x
            for conv in self.reg_convs:
                y = conv(y)
            distances = self.conv_reg(y)
            x = self.feature_adaption(x, torch.exp(distances))
            for conv in self.cls_convs:
                x = conv(x)
            found["cls"].append(self.conv_cls(x))
            found["reg"].append(distances)
        return DenseHead.named(found)


class FoveaCriterion(nn.Module):
    """Focal loss of the classes, smooth L1 loss of the distances' logarithms.

    An object gets the cells near its middle on every level whose range contains its size, at most two; a cell belongs
    to the smallest of several objects.

    Args:
        sigma: size of an object's middle relative to its own.
        alpha, gamma: of the focal loss.
        beta: of the smooth L1 loss.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        sigma: float = 0.4,
        alpha: float = 0.4,
        gamma: float = 1.5,
        beta: float = 0.11,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        self.sigma, self.alpha, self.gamma, self.beta, self.strides = sigma, alpha, gamma, beta, tuple(strides)

    def forward(self, outputs, targets):
        logits, found = rows(outputs, "cls"), rows(outputs, "reg")
        levels = level_points(outputs, self.strides)
        points = torch.from_numpy(np.concatenate(levels)).to(logits)  # (P, 2)
        per_cell = []
        for i, cells in enumerate(levels):
            height, width = map_size(outputs[f"cls_p{i + 3}"])
            per_cell += [(*RANGES[i], self.strides[i], EDGES[i], width - 1, height - 1)] * len(cells)
        numbers = torch.from_numpy(np.array(per_cell, np.float64)).to(logits)  # (P, 6)
        least, most, stride, edge = (numbers[:, i] for i in range(4))
        boxes = targets["boxes"].to(logits.dtype)

        area = box_area(boxes)  # (N, M)
        size = torch.sqrt(torch.clamp(area, min=0.0))[..., None]
        near = self._near(points, boxes[:, :, None], stride[:, None], numbers[:, 4:])
        mine = near & (size >= least) & (size <= most) & targets["valid"][..., None]  # (N, M, P)
        ranked = torch.where(mine, -area[..., None], -NOWHERE)
        index = boxes.shape[1] - 1 - argmax(torch.flip(ranked, (1,)), 1)  # (N, P); the last of equal areas
        positive = mine.any(1)

        wanted = one_hot(take_rows(targets["labels"], index), positive, logits.shape[-1], logits.dtype)
        number = positive.to(logits.dtype).sum()
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        classification = losses.sum() / (number + torch.ones_like(logits[:, 0, 0]).sum() + EPS)

        wanted = distances_to_sides(points, take_rows(boxes, index)).detach()  # mirror: gradients are cut
        wanted = torch.log(torch.clamp(wanted / edge[:, None], min=1 / 16, max=16.0))
        losses = torch.where(positive, smooth_l1_loss(found, wanted, self.beta), 0.0)
        regression = losses.sum() / (torch.clamp(number, min=1.0) + EPS)
        return {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}

    def _near(self, points, boxes, stride, highest):
        """(N, M, P) bool: which cells are near the middle of a box, or are the border cells nearest to it."""
        cell = torch.floor(points / stride)  # column and row
        first, last = boxes[..., :2] / stride, boxes[..., 2:] / stride
        half = 0.5 * (last - first)
        begin = torch.ceil(first + (1 - self.sigma) * half - 0.5)
        end = torch.floor(first + (1 + self.sigma) * half - 0.5)
        begin, end = (torch.minimum(torch.clamp(x, min=0.0), highest) for x in (begin, end))
        return ((begin <= cell) & (cell <= end)).all(-1)


class FoveaPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`; the border is the last pixel's centre.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        found, levels = rows(outputs, "reg"), level_points(outputs, self.strides)
        edges = np.repeat(EDGES, [len(points) for points in levels])[:, None]
        distances = torch.exp(found) * torch.from_numpy(edges).to(found)
        return boxes_of_distances(torch.from_numpy(np.concatenate(levels)).to(found), distances)

    def limit(self, boxes, size):
        """Clip boxes to the last row and column.  (N, B, 4), (2,) or (N, 2) -> (N, B, 4)."""
        return clip_boxes(boxes, size - 1)


def fovea_r50_fpn(
    depth: int = 50, num_classes: int = 80, out_channels: int = 256, num_convs: int = 4, **options
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = FoveaHead(out_channels, num_classes, num_convs)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_input"), head)


def fovea_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return fovea_r50_fpn(depth=depth, **options)


def fovea_r50_fpn_gn_align(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int = 32,
    deform_groups: int = 4,
    wide: int = 4,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = FoveaAlignHead(out_channels, num_classes, num_convs, norm_groups, deform_groups, wide)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_input"), head)
