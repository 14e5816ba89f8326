"""CondInst: every point of a pyramid predicts the weights of a small network that draws its object's mask.

"Conditional Convolutions for Instance Segmentation", 2020, arXiv:2003.05664. Parameter names: mmdet
``dense_heads/condinst_head.py`` (Apache-2.0). What to look at: the networks of all instances run at once, as matrix
products; only their first layer sees the offset of a position from its instance.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where the shared maps are transposed before the product.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.points import grid_points
from torch_impl.boxes.sampling import first_positives
from torch_impl.detection._dense import STRIDES, dense_backbone, dense_neck, level_points, rows
from torch_impl.detection.fcos import FCOSCriterion, FCOSHead, FCOSPostProcess
from torch_impl.layers.aligned_bilinear import aligned_bilinear
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.losses.dice import squared_dice

__all__ = [
    "CondInst",
    "CondInstCriterion",
    "CondInstHead",
    "CondInstMaskHead",
    "CondInstPostProcess",
    "condinst_r50_fpn",
    "condinst_r101_fpn",
    "mask_centres",
    "masks_of_points",
]

CHANNELS = 8  # of the small networks
MASK_STRIDE = 8  # of the shared maps
DICE_EPS = 5e-6


class CondInstHead(FCOSHead):
    """FCOS's head with one more convolution, for the weights of the small networks.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        mask_channels: channels of the shared maps.
        num_convs, norm_groups, in_pixels: see :class:`FCOSHead`.

    Inputs: dict of five levels (N, C, H, W).
    Returns: what :class:`FCOSHead` returns and ``"params_p3"`` ... (N, E, H, W): the weights of three layers, then
        their biases; 169 numbers for 8 shared maps.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        mask_channels: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        in_pixels: bool = False,
    ):
        super().__init__(channels, num_classes, num_convs, norm_groups, True, True, True, in_pixels)
        self.controller = self.last(channels, sum(parameter_counts(mask_channels)))

    def level(self, of_classes, of_boxes, scale, stride):
        found = super().level(of_classes, of_boxes, scale, stride)
        return {**found, "params": self.controller(of_boxes)}


def parameter_counts(mask_channels: int) -> tuple[int, ...]:
    """Number of weights of each of the three layers, then of biases."""
    return (CHANNELS * (mask_channels + 2), CHANNELS * CHANNELS, CHANNELS, CHANNELS, CHANNELS, 1)


class LevelConv(nn.Module):
    """A 3x3 convolution named ``conv0``, ``conv1``, ... after its level.

    Args:
        in_channels: channels of the level.
        out_channels: channels of the result.
        level: its index.

    x: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, level: int):
        super().__init__()
        self.level = level
        self.add_module(f"conv{level}", ConvModule(in_channels, out_channels, 3, 1, 1, norm="batch"))

    def forward(self, x):
        return getattr(self, f"conv{self.level}")(x)


class MaskBranch(nn.Module):
    """The sum of P3 to P5 at the size of P3, and convolutions on it.

    Args:
        in_channels: channels of the levels.
        mid_channels: channels of the convolutions.
        out_channels: channels of the result.
        num_convs: convolutions after the sum.

    levels: three maps (N, in_channels, H_i, W_i), each half as high and wide as the one before
        -> (N, out_channels, H_0, W_0).
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, num_convs: int = 4):
        super().__init__()
        self.convs_all_levels = nn.ModuleList(LevelConv(in_channels, mid_channels, i) for i in range(3))
        self.conv_branch = nn.ModuleList(
            ConvModule(mid_channels, mid_channels, 3, 1, 1, norm="batch") for _ in range(num_convs)
        )
        self.conv_pred = nn.Conv2d(mid_channels, out_channels, 1)
        nn.init.normal_(self.conv_pred.weight, std=0.01)
        nn.init.zeros_(self.conv_pred.bias)

    def forward(self, levels):
        found = [convs(x) for convs, x in zip(self.convs_all_levels, levels)]
        x = found[0] + aligned_bilinear(found[1], 2, (2, 3)) + aligned_bilinear(found[2], 4, (2, 3))
        for conv in self.conv_branch:
            x = conv(x)
        return self.conv_pred(x)


class CondInstMaskHead(nn.Module):
    """The maps that all instances share.

    Args:
        in_channels, mid_channels, out_channels, num_convs: see :class:`MaskBranch`.

    maps: dict of levels P3 to P7 -> (N, out_channels, H, W) of the size of P3.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, num_convs: int = 4):
        super().__init__()
        self.mask_feature_head = MaskBranch(in_channels, mid_channels, out_channels, num_convs)

    def forward(self, maps):
        return self.mask_feature_head(list(maps.values())[:3])


class CondInst(nn.Module):
    """Backbone, pyramid, head of points, head of shared maps.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        bbox_head: see :class:`CondInstHead`.
        mask_head: see :class:`CondInstMaskHead`.

    Inputs: (N, 3, H, W) float, normalised; height and width are multiples of 32.
    Returns: the point head's result and ``"mask_features"`` (N, C, H / 8, W / 8).
    """

    def __init__(self, backbone, neck, bbox_head, mask_head):
        super().__init__()
        self.backbone, self.neck, self.bbox_head, self.mask_head = backbone, neck, bbox_head, mask_head

    def forward(self, images):
        maps = self.neck(self.backbone(images))
        return {**self.bbox_head(maps), "mask_features": self.mask_head(maps)}


def masks_of_points(outputs, cells, strides: tuple[int, ...] = STRIDES):
    """Masks drawn by the small networks of points.

    Args:
        outputs: of the model.
        cells: (N, Q) int64, points, counted through all levels.
        strides: of the levels.

    Returns:
        (N, Q, H / 4, W / 4) logits.
    """
    features = outputs["mask_features"]
    channels, (height, width) = features.shape[1], map_size(features)
    levels = level_points(outputs, strides)
    points = torch.from_numpy(np.concatenate(levels)).to(features)[cells]  # (N, Q, 2)
    reach = np.repeat(strides, [len(found) for found in levels]) * MASK_STRIDE
    places = torch.from_numpy(grid_points((height, width), MASK_STRIDE)).to(features)
    offset = (points[:, :, None] - places) / torch.from_numpy(reach).to(features)[cells][..., None, None]

    found = take_rows(rows(outputs, "params"), cells).split(parameter_counts(channels), -1)
    first, second, third = (x.unflatten(2, shape) for x, shape in zip(found, ((CHANNELS, -1), (CHANNELS, -1), (1, -1))))
    biases = [x[..., None] for x in found[3:]]
    shared = first[..., 2:].flatten(1, 2) @ features.flatten(2)  # the maps are those of all instances
    x = shared.unflatten(1, (-1, CHANNELS)) + first[..., :2] @ offset.mT + biases[0]  # (N, Q, 8, H W)
    x = second @ F.relu(x) + biases[1]
    x = third @ F.relu(x) + biases[2]
    return aligned_bilinear(x[:, :, 0].unflatten(2, (height, width)), 2, (2, 3))


def mask_centres(masks):
    """Centres of masks (N, M, H, W): (N, M, 2), x and y in pixels; 0 for an empty one."""
    height, width = (torch.arange(n, device=masks.device).to(masks.dtype) for n in masks.shape[2:])
    moments = torch.stack([(masks.sum(2) * width).sum(2), (masks.sum(3) * height).sum(2)], -1)
    return moments / torch.clamp(masks.sum((2, 3)), min=1e-6)[..., None]


class CondInstCriterion(FCOSCriterion):
    """FCOS's losses of points near the middle of their mask, and a dice loss of the first points' masks.

    Args:
        max_masks: points per image whose masks are drawn.
        alpha, gamma, strides: see :class:`FCOSCriterion`.

    Inputs: ``outputs`` of the model; ``targets``: those of :class:`FCOSCriterion`, and ``"masks"`` (N, M, H, W) 0 or 1,
        of the images' height and width.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"loss_mask"``, ``"total"``.
    """

    def __init__(
        self, max_masks: int = 300, alpha: float = 0.25, gamma: float = 2.0, strides: tuple[int, ...] = STRIDES
    ):
        super().__init__("giou", True, 1.5, True, alpha, gamma, strides)
        self.max_masks = max_masks

    def centres(self, targets, boxes):
        return mask_centres(targets["masks"].to(boxes.dtype))

    def terms(self, outputs, targets, index, positive):
        found = super().terms(outputs, targets, index, positive)
        cells, drawn = first_positives(positive, self.max_masks)
        masks = masks_of_points(outputs, cells, self.strides).sigmoid().flatten(2)
        small = targets["masks"][:, :, 2::4, 2::4].to(masks.dtype).flatten(2)
        losses = squared_dice(masks, take_rows(small, take_rows(index, cells)), DICE_EPS)
        mask = torch.where(drawn, losses, 0.0).sum() / torch.clamp(drawn.sum(), min=1)
        return {**found, "loss_mask": mask}


class CondInstPostProcess(FCOSPostProcess):
    """FCOS's results and the masks that their points draw.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: see :class:`FCOSPostProcess`.
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: what :class:`FCOSPostProcess` returns and ``"masks"`` (N, D, H, W) bool.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        mask_threshold: float = 0.5,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, True)
        self.mask_threshold = mask_threshold

    def forward(self, outputs, input_size):
        cells, found = self.detect(outputs, input_size)
        height, width = (int(n) for n in input_size)
        masks = masks_of_points(outputs, cells, self.strides).sigmoid()
        masks = aligned_bilinear(masks, MASK_STRIDE // 2, (2, 3))[:, :, :height, :width]
        return {**found, "masks": (masks > self.mask_threshold) & found["valid"][..., None, None]}


def condinst_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int = 32,
    mask_mid_channels: int = 128,
    mask_channels: int = 8,
    in_pixels: bool = False,
    **options,
) -> CondInst:
    backbone = dense_backbone(depth, **options)
    neck = dense_neck(backbone, out_channels, "on_output", True)
    head = CondInstHead(out_channels, num_classes, mask_channels, num_convs, norm_groups, in_pixels)
    mask_head = CondInstMaskHead(out_channels, mask_mid_channels, mask_channels, num_convs)
    return CondInst(backbone, neck, head, mask_head)


def condinst_r101_fpn(depth: int = 101, **options) -> CondInst:
    return condinst_r50_fpn(depth=depth, **options)
