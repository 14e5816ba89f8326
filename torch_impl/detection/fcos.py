"""FCOS: every point of a pyramid predicts its class, its distances to the four sides of its object, and how central it
is.

"FCOS: Fully Convolutional One-Stage Object Detection", 2019, arXiv:1904.01355.
Parameter names: mmdet ``dense_heads/fcos_head.py`` (Apache-2.0). The first variant is the paper's; the ``_improved``
variant samples points near the objects' centres, has distances in strides, centredness from the boxes' tower, and GIoU.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

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
    level_rows,
    one_hot,
)
from torch_impl.layers.rows import take_rows
from torch_impl.layers.scale import Scale
from torch_impl.layers.top_k import argmax
from torch_impl.losses.box import giou_loss
from torch_impl.losses.dense import binary_cross_entropy, iou_loss
from torch_impl.losses.focal import sigmoid_focal_loss

__all__ = [
    "FCOSCriterion",
    "FCOSHead",
    "FCOSPostProcess",
    "centerness",
    "fcos_improved_criterion",
    "fcos_improved_postprocess",
    "fcos_r50_caffe_gn",
    "fcos_r50_caffe_improved",
    "fcos_r101_caffe_gn",
]

RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))  # of the largest distance, in pixels
NOWHERE = 1e8  # area of an object that a point does not belong to


class FCOSHead(DenseHead):
    """Classes, distances and centredness of every point, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups, conv_bias: of the towers, see :class:`DenseHead`.
        norm_on_bbox: whether distances are in strides and clipped at 0; otherwise they are exponentials, in pixels.
        centerness_on_reg: whether the centredness comes from the boxes' tower.
        in_pixels: whether distances in strides are multiplied by the stride, as in mmdet's evaluation.
        strides: of the levels.

    Inputs: dict of five levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) left, top, right, bottom,
        ``"ctr_p3"`` ... (N, 1, H, W) logits.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        conv_bias: bool | None = None,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        in_pixels: bool = False,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__(channels, num_convs, norm_groups, conv_bias)
        self.norm_on_bbox, self.centerness_on_reg = norm_on_bbox, centerness_on_reg
        self.in_pixels, self.strides = in_pixels, tuple(strides)
        self.conv_cls = self.last(channels, num_classes, PRIOR_BIAS)
        self.conv_reg = self.last(channels, 4)
        self.conv_centerness = self.last(channels, 1)
        self.scales = nn.ModuleList(Scale() for _ in strides)

    def forward(self, maps):
        levels = zip(maps.values(), self.scales, self.strides)
        found = [self.level(*self.towers(x), scale, stride) for x, scale, stride in levels]
        return self.named({key: [level[key] for level in found] for key in found[0]})

    def level(self, of_classes, of_boxes, scale, stride: int) -> dict:
        """The maps of one level by key, from its towers' outputs."""
        distances = scale(self.conv_reg(of_boxes))
        if self.norm_on_bbox:
            distances = F.relu(distances) * (stride if self.in_pixels else 1)
        else:
            distances = torch.exp(distances)
        return {
            "cls": self.conv_cls(of_classes),
            "reg": distances,
            "ctr": self.conv_centerness(of_boxes if self.centerness_on_reg else of_classes),
        }


def centerness(distances):
    """How central a point inside a box is: 1 in its middle, 0 on a side (equation 3).  (..., 4) -> (...)."""
    one, other = distances[..., :2], distances[..., 2:]
    share = torch.minimum(one, other) / torch.maximum(one, other)
    return torch.sqrt(share[..., 0] * share[..., 1])


class FCOSCriterion(nn.Module):
    """Focal loss of the classes, overlap of the boxes weighted by centredness, cross-entropy of the centredness.

    A point belongs to the smallest object that contains it and whose largest distance is in the range of its level.

    Args:
        box_loss: "iou", the negative logarithm of the IoU, or "giou".
        center_sampling: whether only points within ``radius`` strides of an object's centre belong to it.
        radius: see ``center_sampling``.
        norm_on_bbox: whether distances are in strides.
        alpha, gamma: of the focal loss.
        strides: of the levels; the last one's range is unbounded.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"total"``.
    Raises: ValueError if ``box_loss`` is unknown.
    """

    def __init__(
        self,
        box_loss: str = "iou",
        center_sampling: bool = False,
        radius: float = 1.5,
        norm_on_bbox: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__()
        if box_loss not in ("iou", "giou"):
            raise ValueError(f"box_loss={box_loss!r} must be 'iou' or 'giou'")
        self.box_loss, self.center_sampling, self.radius = box_loss, center_sampling, radius
        self.norm_on_bbox, self.alpha, self.gamma, self.strides = norm_on_bbox, alpha, gamma, tuple(strides)

    def forward(self, outputs, targets):
        terms = self.terms(outputs, targets, *self.assign(outputs, targets))
        return {**terms, "total": sum(terms.values())}

    def assign(self, outputs, targets):
        """Which object a point belongs to, (N, P) int64, and whether there is one, (N, P) bool."""
        boxes = targets["boxes"].to(outputs["cls_p3"].dtype)
        levels = level_points(outputs, self.strides)
        points = torch.from_numpy(np.concatenate(levels)).to(boxes)  # (P, 2)
        ends = [*(most for _, most in RANGES[: len(levels) - 1]), RANGES[-1][1]]  # the last level is unbounded
        per_level = [(RANGES[i][0], ends[i], self.strides[i]) for i, found in enumerate(levels) for _ in found]
        least, most, stride = torch.from_numpy(np.array(per_level)).to(boxes).unbind(-1)

        sides = distances_to_sides(points, boxes[:, :, None])  # (N, M, P, 4)
        inside = self._inside(points, boxes, self.centres(targets, boxes), stride, sides)
        largest = sides.amax(-1)
        mine = inside & (largest >= least) & (largest <= most) & targets["valid"][..., None]
        area = torch.where(mine, box_area(boxes)[..., None], NOWHERE)
        return argmax(-area, 1), mine.any(1)  # the first of equal areas

    def centres(self, targets, boxes):
        """The centres of objects, around which points are sampled, (N, M, 2)."""
        return (boxes[..., :2] + boxes[..., 2:]) / 2

    def terms(self, outputs, targets, index, positive) -> dict:
        """The losses by name, given the result of :meth:`assign`."""
        logits, distances, central = (level_rows(outputs, key, self.strides) for key in ("cls", "reg", "ctr"))
        levels = level_points(outputs, self.strides)
        points = torch.from_numpy(np.concatenate(levels)).to(logits)
        wanted = one_hot(take_rows(targets["labels"], index), positive, logits.shape[-1], logits.dtype)
        count = torch.clamp(positive.to(logits.dtype).sum(), min=1.0) + EPS
        classification = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma).sum() / count

        # a point without an object has a dummy box for prediction and target: finite, and masked
        boxes = take_rows(targets["boxes"].to(logits.dtype), index)
        wanted = distances_to_sides(points, boxes).detach()  # mirror: gradients are cut
        if self.norm_on_bbox:
            stride = np.repeat(self.strides, [len(found) for found in levels])[:, None]
            wanted = wanted / torch.from_numpy(stride).to(logits)
        wanted = torch.where(positive[..., None], wanted, 1.0)
        distances = torch.where(positive[..., None], distances, 1.0)
        weight = torch.where(positive, centerness(wanted), 0.0)
        losses = self.box_losses(distances, wanted)
        regression = (losses * weight).sum() / (torch.clamp(weight.sum(), min=1e-6) + EPS)
        centre = torch.where(positive, binary_cross_entropy(central[..., 0], weight), 0.0).sum() / count
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_centerness": centre,
        }

    def box_losses(self, distances, wanted):
        """GIoU loss of boxes given by their distances from a point.  (..., 4) twice -> (...)."""
        origin = torch.zeros_like(distances[..., :2])
        loss = giou_loss if self.box_loss == "giou" else iou_loss
        return loss(boxes_of_distances(origin, distances), boxes_of_distances(origin, wanted))

    def _inside(self, points, boxes, centres, stride, sides):
        """(N, M, P) bool: which points may belong to a box."""
        if self.center_sampling:
            half, centres, boxes = (stride * self.radius)[:, None], centres[:, :, None], boxes[:, :, None]
            first = torch.maximum(centres - half, boxes[..., :2])
            last = torch.minimum(centres + half, boxes[..., 2:])
            sides = distances_to_sides(points, torch.cat((first, last), -1))
        return (sides > 0).all(-1)


class FCOSPostProcess(DensePostProcess):
    """The best boxes, the class's probability times that of the centredness, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.
        norm_on_bbox: whether distances are in strides.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        norm_on_bbox: bool = False,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides)
        self.norm_on_bbox = norm_on_bbox

    def decode(self, outputs):
        distances, levels = level_rows(outputs, "reg", self.strides), level_points(outputs, self.strides)
        if self.norm_on_bbox:
            stride = np.repeat(self.strides, [len(points) for points in levels])[:, None]
            distances = distances * torch.from_numpy(stride).to(distances)
        return boxes_of_distances(torch.from_numpy(np.concatenate(levels)).to(distances), distances)


def fcos_improved_criterion(**options) -> FCOSCriterion:
    """The losses of the improved variant."""
    return FCOSCriterion(**{"box_loss": "giou", "center_sampling": True, "norm_on_bbox": True, **options})


def fcos_improved_postprocess(**options) -> FCOSPostProcess:
    """The results of the improved variant."""
    return FCOSPostProcess(**{"iou_threshold": 0.6, "norm_on_bbox": True, **options})


def fcos_r50_caffe_gn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    conv_bias: bool | None = None,
    norm_on_bbox: bool = False,
    centerness_on_reg: bool = False,
    in_pixels: bool = False,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **{"stride_in_1x1": True, **options})
    head = FCOSHead(
        out_channels, num_classes, num_convs, norm_groups, conv_bias, norm_on_bbox, centerness_on_reg, in_pixels
    )
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output", True), head)


def fcos_r101_caffe_gn(depth: int = 101, **options) -> DenseDetector:
    return fcos_r50_caffe_gn(depth=depth, **options)


def fcos_r50_caffe_improved(
    conv_bias: bool = True, norm_on_bbox: bool = True, centerness_on_reg: bool = True, **options
) -> DenseDetector:
    return fcos_r50_caffe_gn(
        conv_bias=conv_bias, norm_on_bbox=norm_on_bbox, centerness_on_reg=centerness_on_reg, **options
    )
