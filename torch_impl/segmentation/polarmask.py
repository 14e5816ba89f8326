"""PolarMask: every point of a pyramid predicts its class, its box, and the outline's distance along 36 rays.

"PolarMask: Single Shot Instance Segmentation with Polar Representation", 2019, arXiv:1909.13226. Parameter names:
xieenze/PolarMask ``mmdet/models/anchor_heads/polarmask_head.py`` (Apache-2.0). What to look at: the loss of a mask is
that of 36 numbers: ray lengths replace areas in an IoU. The convolution that predicts offsets is called ``conv_offset``
    here, in the reference ``conv_offset_mask``, and ``conv2_offset`` in its trunk.

Mirror notes:
- NCHW here, NHWC in TensorFlow, see ``detection/_dense.py``.
- Crossings are counted by ``scatter_add`` along rows here, by flat indices in TensorFlow.
"""

import math

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.points import boxes_of_distances
from torch_impl.boxes.results import results
from torch_impl.classification.resnet import CONV, DEFORM
from torch_impl.detection._dense import (
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    dense_neck,
    level_points,
    one_hot,
    rows,
)
from torch_impl.detection.faster_rcnn import pyramid_backbone
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.deform_conv import ModulatedDeformConv2dPack
from torch_impl.layers.initialization import normal
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.rows import take_rows
from torch_impl.layers.scale import Scale
from torch_impl.layers.top_k import top_k
from torch_impl.losses.dense import binary_cross_entropy, iou_loss
from torch_impl.losses.focal import sigmoid_focal_loss

__all__ = [
    "PolarMaskCriterion",
    "PolarMaskHead",
    "PolarMaskPostProcess",
    "fill_polygons",
    "polar_iou_loss",
    "polarmask_r50",
    "polarmask_r50_dcn",
    "polarmask_r101",
]

RAYS = 36
CENTRAL = 0.5  # added to the centredness before it is multiplied by the class's probability


def deformable_tower(channels: int, num_convs: int, norm_groups: int) -> nn.ModuleList:
    """Deformable 3x3 convolutions, each with group normalisation and ReLU."""
    layers = nn.ModuleList()
    for _ in range(num_convs):
        conv = ModulatedDeformConv2dPack(channels, channels, 3, padding=1)
        layers += [conv, nn.GroupNorm(norm_groups, channels), nn.ReLU()]
    return layers


class PolarMaskHead(DenseHead):
    """Classes, distances, centredness and rays of every point, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the three towers, see :class:`DenseHead`.
        strides: of the levels.
        deform: whether the towers' convolutions are deformable, with a mask and a bias.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits; ``"reg_p3"`` ... (N, 4, H, W) left, top, right, bottom, in
        pixels; ``"ctr_p3"`` ... (N, 1, H, W) logits; ``"rays_p3"`` ... (N, 36, H, W) in pixels, the first one down, the
        tenth to the right.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        strides: tuple[int, ...] = STRIDES,
        deform: bool = False,
    ):
        super().__init__(channels, 0 if deform else num_convs, norm_groups)
        if deform:
            for name in ("cls_convs", "reg_convs", "mask_convs"):
                setattr(self, name, deformable_tower(channels, num_convs, norm_groups))
        else:
            self.mask_convs = nn.ModuleList(
                ConvModule(channels, channels, 3, 1, 1, norm="group", norm_groups=norm_groups) for _ in range(num_convs)
            )
            normal(self.mask_convs, 0.01)
        self.polar_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.polar_reg = self.last(channels, 4)
        self.polar_mask = self.last(channels, RAYS)
        self.polar_centerness = self.last(channels, 1)
        self.scales_bbox = nn.ModuleList(Scale() for _ in strides)
        self.scales_mask = nn.ModuleList(Scale() for _ in strides)

    def forward(self, maps):
        found = {"cls": [], "reg": [], "ctr": [], "rays": []}
        for x, of_box, of_mask in zip(maps.values(), self.scales_bbox, self.scales_mask):
            of_classes, of_boxes = self.towers(x)
            for conv in self.mask_convs:
                x = conv(x)
            found["cls"].append(self.polar_cls(of_classes))
            found["reg"].append(torch.exp(of_box(self.polar_reg(of_boxes))))
            found["ctr"].append(self.polar_centerness(of_classes))
            found["rays"].append(torch.exp(of_mask(self.polar_mask(x))))
        return self.named(found)


def polar_iou_loss(rays, targets):
    """Logarithm of the sum of the longer rays over that of the shorter ones (equation 8).  (..., 36) -> (...)."""
    longer, shorter = torch.where(rays > targets, rays, targets), torch.where(rays > targets, targets, rays)
    return torch.log(longer.sum(-1) / shorter.sum(-1))


class PolarMaskCriterion(nn.Module):
    """Focal loss of the classes, overlap of boxes and of rays weighted by centredness, which has a cross-entropy.

    Args:
        alpha, gamma: of the focal loss.

    Inputs: ``outputs`` of the model; ``targets`` of all points P, level by level, see ``weights.processing``'s
        ``polar_targets``: ``"labels"`` (N, P) int64, -1 for a point without an object; ``"distances"`` (N, P, 4) and
        ``"rays"`` (N, P, 36) in pixels, positive everywhere.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_mask"``, ``"loss_centerness"``, ``"total"``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, outputs, targets):
        logits, central = rows(outputs, "cls"), rows(outputs, "ctr")[..., 0]
        labels, positive = targets["labels"], targets["labels"] >= 0  # (N, P)
        wanted = one_hot(labels, positive, logits.shape[-1], logits.dtype)
        count = positive.to(logits.dtype).sum()
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        classification = losses.sum() / (count + logits.shape[0])

        distances, wanted_distances, rays, wanted_rays = (
            torch.where(positive[..., None], x.to(logits.dtype), 1.0)
            for x in (rows(outputs, "reg"), targets["distances"], rows(outputs, "rays"), targets["rays"])
        )
        weight = torch.where(positive, torch.sqrt(wanted_rays.amin(-1) / wanted_rays.amax(-1)), 0.0)
        share = weight / torch.clamp(weight.sum(), min=1e-6)
        pixel = torch.tensor([0, 0, 1, 1], dtype=logits.dtype, device=logits.device)  # boxes include their last pixel
        origin = torch.zeros_like(distances[..., :2])
        boxes, wanted_boxes = (boxes_of_distances(origin, x) + pixel for x in (distances, wanted_distances))
        regression = (iou_loss(boxes, wanted_boxes) * share).sum()
        mask = (polar_iou_loss(rays, wanted_rays) * share).sum()
        centre = torch.where(positive, binary_cross_entropy(central, weight), 0.0).sum() / torch.clamp(count, min=1)
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_mask": mask,
            "loss_centerness": centre,
            "total": classification + regression + mask + centre,
        }


def fill_polygons(polygons, size: tuple[int, int]):
    """The pixels inside polygons: those with an odd number of edges between them and the left border.

    Args:
        polygons: (N, D, V, 2) corners x and y, in pixels whose centres are integers.
        size: height and width of the image.

    Returns:
        (N, D, H, W) bool.
    """
    height, width = size
    x, y = polygons[:, :, None].unbind(-1)  # (N, D, 1, V)
    next_x, next_y = x.roll(-1, -1), y.roll(-1, -1)
    row = torch.arange(height, device=polygons.device).to(polygons.dtype)[:, None]
    crossed = (y <= row) != (next_y <= row)  # (N, D, H, V)
    rise = torch.where(next_y == y, 1.0, next_y - y)
    first = torch.ceil(x + (row - y) * (next_x - x) / rise)
    first = torch.where(crossed, torch.clamp(first, 0, width), width).to(torch.int64)
    edges = torch.zeros_like(first[..., :1]).repeat(1, 1, 1, width + 1).to(polygons.dtype)
    edges = edges.scatter_add(3, first, torch.ones_like(first).to(polygons.dtype))  # mirror: scatter_add
    passed = edges.cumsum(3)[..., :width]
    return passed - 2 * torch.floor(passed / 2) > 0.5


class PolarMaskPostProcess(nn.Module):
    """The best boxes and polygons of every image, scored by the class's probability times the centredness plus 0.5.

    The best points of each level are kept, by their best class and centredness; of those the best pairs with a class.

    Args:
        score_threshold: pairs of at most this probability of the class are dropped.
        candidates: points kept per level, and pairs kept over all levels.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        strides: of the levels.
        mask_nms: whether boxes are those around the polygons instead of the predicted ones.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"polygons"`` (N, D, 36, 2) x and y and ``"boxes"`` (N, D, 4) xyxy in
        pixels, ``"scores"`` (N, D) descending, at most 1.5, ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool; where
        False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        mask_nms: bool = False,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.strides = iou_threshold, detections, tuple(strides)
        self.mask_nms = mask_nms

    def forward(self, outputs, input_size):
        height, width = (int(n) for n in input_size)
        scores, central = torch.sigmoid(rows(outputs, "cls")), torch.sigmoid(rows(outputs, "ctr")[..., 0])
        best, found, start = scores.amax(-1) * central, [], 0
        levels = level_points(outputs, self.strides)
        for points in levels:
            of_level = best[:, start : start + len(points)]
            found.append(top_k(of_level, min(self.candidates, len(points)))[1] + start)
            start += len(points)
        index = torch.cat(found, 1)
        scores, central = take_rows(scores, index), take_rows(central, index)
        scores = torch.where(scores > self.score_threshold, scores * (central + CENTRAL)[..., None], 0.0)
        classes = scores.shape[-1]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        place = torch.div(pairs, classes, rounding_mode="floor")
        labels, index = pairs - place * classes, take_rows(index, place)

        last = torch.tensor([width - 1, height - 1], dtype=scores.dtype, device=scores.device)
        points = torch.from_numpy(np.concatenate(levels)).to(scores)[index]  # (N, C, 2)
        angle = np.arange(RAYS) * (2 * math.pi / RAYS)
        direction = torch.from_numpy(np.stack([np.sin(angle), np.cos(angle)], -1)).to(scores)  # (36, 2)
        polygons = points[:, :, None] + take_rows(rows(outputs, "rays"), index)[..., None] * direction
        polygons = torch.minimum(torch.clamp(polygons, min=0), last)
        if self.mask_nms:
            boxes = torch.cat([polygons.amin(2), polygons.amax(2)], -1)
        else:
            boxes = boxes_of_distances(points, take_rows(rows(outputs, "reg"), index))
            boxes = torch.minimum(torch.clamp(boxes, min=0), last.repeat(2))
        pixel = torch.tensor([0, 0, 1, 1], dtype=scores.dtype, device=scores.device)  # boxes include their last pixel
        kept, valid = batched_nms(boxes + pixel, scores, labels, scores > 0, self.iou_threshold, self.detections)
        polygons = take_rows(polygons, kept)
        return {
            "masks": fill_polygons(polygons, (height, width)) & valid[..., None, None],
            "polygons": torch.where(valid[..., None, None], polygons, 0.0),
            **results(boxes, scores, labels, kept, valid),
        }


def polarmask_r50(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int = 32,
    deform: bool = False,
    **options,
) -> DenseDetector:
    conv = (CONV, *(DEFORM["v1"],) * 3) if deform else CONV
    backbone = pyramid_backbone(layers=layers, stride_in_1x1=stride_in_1x1, conv=conv, out_indices=(2, 3, 4), **options)
    head = PolarMaskHead(out_channels, num_classes, num_convs, norm_groups, deform=deform)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output", True), head)


def polarmask_r50_dcn(deform: bool = True, **options) -> DenseDetector:
    """PolarMask with deformable convolutions in the trunk's stages 2 to 4, without a mask, and in the towers."""
    return polarmask_r50(deform=deform, **options)


def polarmask_r101(layers=(3, 4, 23, 3), **options) -> DenseDetector:
    return polarmask_r50(layers=layers, **options)
