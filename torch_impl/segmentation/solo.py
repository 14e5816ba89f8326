"""SOLO: every cell of a grid predicts a class and a mask for the object whose centre lies in it.

"SOLO: Segmenting Objects by Locations", 2019, arXiv:1912.04488. Parameter names: mmdet ``dense_heads/solo_head.py``
and ``dense_heads/decoupled_solo_head.py`` (Apache-2.0). What to look at: a mask is a channel; the decoupled variants
have channels for rows and columns, and a mask is the product of two.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where the mask maps are transposed before channels are picked.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock
from torch_impl.detection.faster_rcnn import pyramid_backbone
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import normal
from torch_impl.layers.matrix_nms import matrix_nms
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k
from torch_impl.losses.dice import squared_dice
from torch_impl.losses.focal import sigmoid_focal_loss
from torch_impl.necks.fpn import FPN
from torch_impl.segmentation._instances import (
    LEVELS,
    MaskDetector,
    boxes_of_masks,
    coordinates,
    strided_masks,
)

__all__ = [
    "DecoupledSOLOHead",
    "DecoupledSOLOLightHead",
    "SOLOCriterion",
    "SOLOHead",
    "SOLOPostProcess",
    "claimed_cells",
    "decoupled_solo_light_criterion",
    "decoupled_solo_light_r50_fpn",
    "decoupled_solo_r50_fpn",
    "even_levels",
    "resized",
    "solo_r18_fpn",
    "solo_r50_fpn",
    "solo_r101_fpn",
    "upper_left_peaks",
]

GRIDS = (40, 36, 24, 16, 12)
STRIDES = (8, 8, 16, 32, 32)  # of the levels after ``even_levels``
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # of the square root of an object's area, in pixels
LIGHT_RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
EPS = 1.1920929e-07


def even_levels(maps: dict) -> list:
    """P2 at half its size and P6 at the size of P5, the others unchanged: strides 8, 8, 16, 32, 32."""
    first, *middle, before, last = maps.values()
    height, width = map_size(first)
    halved = resize_bilinear(first, (height // 2, width // 2))
    return [halved, *middle, before, resize_bilinear(last, map_size(before))]


def upper_left_peaks(scores):
    """Scores not exceeded by the neighbours above, left and upper left; 0 for the others."""
    return torch.where(F.max_pool2d(F.pad(scores, (1, 0, 1, 0)), 2, 1) == scores, scores, 0.0)


def resized(outputs: dict) -> dict:
    """Probabilities of a model's outputs: of all masks at one size, of the classes where they have a peak."""
    found = {}
    size = map_size(next(x for key, x in outputs.items() if key.startswith("mask")))
    for key, x in outputs.items():
        found[key] = upper_left_peaks(x.sigmoid()) if key.startswith("cls") else resize_bilinear(x.sigmoid(), size)
    return found


class SOLOHead(nn.Module):
    """A tower for masks, which receives coordinates, and a tower for the classes of the grid's cells.

    Args:
        in_channels: channels of the levels.
        num_classes: classes K.
        channels: channels of the convolutions.
        num_convs: convolutions of each tower.
        num_grids: cells S per axis of the grid of every level.
        norm_groups: groups of the normalisation after each convolution.
        evaluated: whether to return mmdet's results in evaluation, see :func:`resized`, not logits.

    Inputs: dict of levels P2 to P6, (N, C, H, W).
    Returns: dict: ``"mask_p2"`` ... (N, S^2, 2 h, 2 w) logits, row by row of the grid, at twice the size of the level;
        ``"cls_p2"`` ... (N, K, S, S) logits. The levels have the strides 8, 8, 16, 32, 32.
    """

    extra = {"mask_convs": 2}  # towers for masks, and how many coordinates they receive

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 7,
        num_grids: tuple[int, ...] = GRIDS,
        norm_groups: int = 32,
        evaluated: bool = False,
    ):
        super().__init__()
        self.num_grids, self.evaluated = tuple(num_grids), evaluated
        for name, extra in {**self.extra, "cls_convs": 0}.items():
            widths = [in_channels + extra] + [channels] * num_convs
            convs = [
                ConvModule(c, channels, 3, 1, 1, norm="group", norm_groups=norm_groups) for c in widths[:num_convs]
            ]
            setattr(self, name, nn.ModuleList(convs))
        self.make_outputs(channels)
        self.conv_cls = nn.Conv2d(channels, num_classes, 3, 1, 1)
        normal(self, 0.01)
        for name, parameter in self.named_parameters():
            if name.startswith("conv_") and name.endswith("bias"):
                nn.init.constant_(parameter, PRIOR_BIAS)

    def make_outputs(self, channels: int):
        """The last convolutions of the masks."""
        self.conv_mask_list = nn.ModuleList(nn.Conv2d(channels, grid**2, 1) for grid in self.num_grids)

    def masks(self, x, level: int) -> dict:
        """Maps of one level's masks by key."""
        return {"mask": self.conv_mask_list[level](self.tower(self.mask_convs, x, coordinates(x)))}

    def tower(self, convs, x, where):
        """Convolutions on a map and its coordinates, upsampled by two."""
        x = torch.cat([x, where], 1)
        for conv in convs:
            x = conv(x)
        height, width = map_size(x)
        return resize_bilinear(x, (2 * height, 2 * width))

    def forward(self, maps):
        found = {}
        for i, (name, x) in enumerate(zip(maps, even_levels(maps))):
            found |= {f"{key}_{name}": masks for key, masks in self.masks(x, i).items()}
            y = resize_bilinear(x, (self.num_grids[i], self.num_grids[i]))
            for conv in self.cls_convs:
                y = conv(y)
            found[f"cls_{name}"] = self.conv_cls(y)
        return resized(found) if self.evaluated else found


class DecoupledSOLOHead(SOLOHead):
    """The mask of a cell is the product of a map of its column and a map of its row, each with its own tower.

    Args, inputs: see :class:`SOLOHead`.
    Returns: the same, with ``"mask_x_p2"`` ... and ``"mask_y_p2"`` ... (N, S, 2 h, 2 w) instead of the masks.
    """

    extra = {"mask_convs_x": 1, "mask_convs_y": 1}

    def make_outputs(self, channels):
        for axis in "xy":
            convs = [nn.Conv2d(channels, grid, 3, 1, 1) for grid in self.num_grids]
            setattr(self, f"conv_mask_list_{axis}", nn.ModuleList(convs))

    def masks(self, x, level):
        where = coordinates(x)
        return {
            "mask_x": self.conv_mask_list_x[level](self.tower(self.mask_convs_x, x, where[:, :1])),
            "mask_y": self.conv_mask_list_y[level](self.tower(self.mask_convs_y, x, where[:, 1:])),
        }


class DecoupledSOLOLightHead(DecoupledSOLOHead):
    """The same with one tower for both.

    Args, inputs, returns: see :class:`DecoupledSOLOHead`.
    """

    extra = {"mask_convs": 2}

    def masks(self, x, level):
        x = self.tower(self.mask_convs, x, coordinates(x))
        return {"mask_x": self.conv_mask_list_x[level](x), "mask_y": self.conv_mask_list_y[level](x)}


def claimed_cells(targets: dict, grid: int, limits: tuple[float, float], dtype):
    """Which cells of a level's grid belong to which objects: at most nine around the centre of the mask.

    Args:
        targets: see :class:`SOLOCriterion`.
        grid: cells per axis.
        limits: smallest and largest square root of the area of an object's box.
        dtype: of the result.

    Returns:
        first: (N, M, 2) row and column of the first cell.
        last: (N, M, 2) those of the last one.
        present: (N, M) bool, which objects have cells on the level.
    """
    masks, boxes = targets["masks"].to(dtype), targets["boxes"].to(dtype)
    size = torch.tensor(masks.shape[2:], device=masks.device).to(dtype)
    place = [torch.arange(n, device=masks.device).to(dtype) for n in masks.shape[2:]]
    area = masks.sum((2, 3))
    centre = torch.stack([(masks.sum(3) * place[0]).sum(2), (masks.sum(2) * place[1]).sum(2)], -1)
    centre = centre / area.clamp(min=1e-6)[..., None]  # (N, M, 2), row and column
    sides = (boxes[..., 2:] - boxes[..., :2]).flip(-1)

    def cell(where):
        return torch.floor(where / size / (1 / grid))

    first = torch.maximum(cell(centre - 0.1 * sides).clamp(min=0), cell(centre) - 1)
    last = torch.minimum(cell(centre + 0.1 * sides).clamp(max=grid - 1), cell(centre) + 1)
    scale = (sides[..., 0] * sides[..., 1]).sqrt()
    present = targets["valid"] & (area > 0) & (scale >= limits[0]) & (scale <= limits[1])
    return first, last, present


class SOLOCriterion(nn.Module):
    """Focal loss of the cells' classes, dice loss of the masks of the cells that have an object.

    An object belongs to every level whose range contains its size; a cell belongs to the last object that claims it.

    Args:
        ranges: of the levels, of the square root of an object's area in pixels.
        mask_weight: of the dice loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width,
        ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_mask"``, ``"loss_cls"``, ``"total"``.
    """

    def __init__(self, ranges: tuple[tuple[float, float], ...] = RANGES, mask_weight: float = 3.0):
        super().__init__()
        self.ranges, self.mask_weight = tuple(tuple(limits) for limits in ranges), mask_weight

    def forward(self, outputs, targets):
        classification, mask, count = 0.0, 0.0, 0.0
        for level, stride, limits in zip(LEVELS, STRIDES, self.ranges):
            logits = outputs[f"cls_{level}"].permute(0, 2, 3, 1)  # (N, S, S, K)
            grid, slots = logits.shape[1], torch.arange(1, targets["labels"].shape[1] + 1, device=logits.device)
            first, last, present = claimed_cells(targets, grid, limits, logits.dtype)
            place = torch.arange(grid, device=logits.device)[:, None]
            rows, columns = ((place >= first[:, :, None]) & (place <= last[:, :, None])).unbind(-1)  # (N, M, S)
            claimed = rows[..., None] & columns[:, :, None] & present[..., None, None]
            owner = (claimed * slots[:, None, None]).amax(1)  # (N, S, S), 0 without
            label = take_rows(targets["labels"], owner.flatten(1) - 1).view(owner.shape)
            every = torch.arange(logits.shape[-1], device=logits.device)
            wanted = ((label[..., None] == every) & (owner > 0)[..., None]).to(logits.dtype)
            classification = classification + sigmoid_focal_loss(logits, wanted).sum()
            count = count + (owner > 0).sum().to(logits.dtype)

            step = torch.tensor([[i, j] for i in range(3) for j in range(3)], device=first.device).to(first.dtype)
            cells = first[:, :, None] + step  # (N, M, 9, 2)
            inside = (cells <= last[:, :, None]).all(-1) & present[..., None]
            row, column = cells.clamp(min=0, max=grid - 1).long().flatten(1, 2).unbind(-1)  # (N, 9 M)
            inside = inside & self.counted(owner, row, column, slots)
            losses = self.dice(outputs, level, row, column, targets["masks"].to(logits.dtype), stride // 2)
            mask = mask + torch.where(inside, losses, 0.0).sum()
        loss_cls = classification / (count + 1 + EPS)
        loss_mask = self.mask_weight * mask / count.clamp(min=1)
        return {"loss_mask": loss_mask, "loss_cls": loss_cls, "total": loss_mask + loss_cls}

    def counted(self, owner, row, column, slots):
        """Which of the cells that objects claim they get: (N, M, 9) bool."""
        mine = take_rows(owner.flatten(1), row * owner.shape[1] + column)
        return mine.unflatten(1, (-1, 9)) == slots[:, None]

    def dice(self, outputs, level, row, column, masks, factor: int):
        """Losses of the masks of cells against those of their objects: (N, M, 9)."""
        size = map_size(next(outputs[key] for key in (f"mask_{level}", f"mask_x_{level}") if key in outputs))
        found = probabilities(outputs, level, row, column).unflatten(1, (-1, 9))
        wanted = strided_masks(masks, factor)
        height, width = wanted.shape[2:]
        wanted = F.pad(wanted, (0, size[1] - width, 0, size[0] - height))  # upper left, where the maps are larger
        return squared_dice(found, wanted.flatten(2)[:, :, None])


def probabilities(outputs, level: str, row, column):
    """Masks of cells (N, Q) of a level's grid, flat: (N, Q, h w)."""
    if f"mask_{level}" in outputs:
        grid = outputs[f"cls_{level}"].shape[-1]
        return take_rows(outputs[f"mask_{level}"].flatten(2), row * grid + column).sigmoid()
    x, y = outputs[f"mask_x_{level}"].flatten(2), outputs[f"mask_y_{level}"].flatten(2)
    return take_rows(x, column).sigmoid() * take_rows(y, row).sigmoid()


def decoupled_solo_light_criterion(**options) -> SOLOCriterion:
    """The losses with the ranges of the light variant."""
    return SOLOCriterion(**{"ranges": LIGHT_RANGES, **options})


class SOLOPostProcess(nn.Module):
    """The best masks of every image, those of one class suppressed by matrix suppression.

    Args:
        score_threshold: pairs of cell and class of at most this probability are dropped.
        candidates: pairs considered, C.
        mask_threshold: a pixel belongs to a mask if its probability is larger.
        filter_threshold: masks whose score is smaller after suppression are dropped.
        detections: results per image, D.
        kernel, sigma: of :func:`matrix_nms`.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) around them, xyxy in pixels, ``"scores"`` (N, D)
        descending, ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.1,
        candidates: int = 500,
        mask_threshold: float = 0.5,
        filter_threshold: float = 0.05,
        detections: int = 100,
        kernel: str = "gaussian",
        sigma: float = 2.0,
    ):
        super().__init__()
        self.score_threshold, self.candidates, self.mask_threshold = score_threshold, candidates, mask_threshold
        self.filter_threshold, self.detections, self.kernel, self.sigma = filter_threshold, detections, kernel, sigma

    def forward(self, outputs, input_size):
        found, size = self.judged(outputs)
        grids = [found[f"cls_{level}"].shape[-1] for level in LEVELS]
        scores = torch.cat([found[f"cls_{level}"].flatten(2).transpose(1, 2) for level in LEVELS], 1)  # (N, P, K)
        classes = scores.shape[2]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        cells = pairs // classes
        labels = pairs - cells * classes
        strides = torch.tensor([s for s, g in zip(STRIDES, grids) for _ in range(g**2)], device=cells.device)
        shown = self.masks_of(found, cells, grids)  # (N, C, h w)
        masks = (shown > self.mask_threshold).to(shown.dtype)
        area = masks.sum(-1)
        valid = (scores > self.score_threshold) & (area > strides[cells])
        scores = torch.where(valid, scores * (shown * masks).sum(-1) / area.clamp(min=1), 0.0)

        scores, order = top_k(scores, scores.shape[1])
        labels, shown, masks = (take_rows(x, order) for x in (labels, shown, masks))
        scores = matrix_nms(masks, labels, scores, self.kernel, self.sigma)
        scores, order = top_k(
            torch.where(scores >= self.filter_threshold, scores, 0.0), min(self.detections, scores.shape[1])
        )
        valid = scores > 0
        shown = take_rows(shown, order).unflatten(2, size)
        height, width = (int(n) for n in input_size)
        shown = resize_bilinear(shown, (4 * size[0], 4 * size[1]))[:, :, :height, :width]
        masks = (shown > self.mask_threshold) & valid[..., None, None]
        return {
            "masks": masks,
            "boxes": boxes_of_masks(masks, scores.dtype),
            "scores": scores,
            "labels": torch.where(valid, take_rows(labels, order), 0),
            "valid": valid,
        }

    def judged(self, outputs):
        """Probabilities of the outputs, and the height and width of all masks."""
        found = resized(outputs)
        return found, map_size(next(x for key, x in found.items() if key.startswith("mask")))

    def masks_of(self, found, cells, grids: list[int]):
        """Masks of cells (N, C), counted through all levels: (N, C, h w)."""
        if f"mask_{LEVELS[0]}" in found:
            return take_rows(torch.cat([found[f"mask_{level}"] for level in LEVELS], 1).flatten(2), cells)
        lines, start = [], 0
        for grid in grids:
            lines.append(start + np.stack(np.divmod(np.arange(grid**2), grid), -1))
            start += grid
        row, column = torch.tensor(np.concatenate(lines), device=cells.device)[cells].unbind(-1)
        x, y = (torch.cat([found[f"mask_{axis}_{level}"] for level in LEVELS], 1).flatten(2) for axis in "xy")
        return take_rows(x, column) * take_rows(y, row)


def solo_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    head=SOLOHead,
    channels: int = 256,
    num_convs: int = 7,
    num_grids: tuple[int, ...] = GRIDS,
    norm_groups: int = 32,
    evaluated: bool = False,
    **options,
) -> MaskDetector:
    backbone = pyramid_backbone(layers=layers, **options)
    head = head(out_channels, num_classes, channels, num_convs, num_grids, norm_groups, evaluated)
    return MaskDetector(backbone, FPN(backbone.channels, out_channels), head)


def solo_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> MaskDetector:
    return solo_r50_fpn(block=block, layers=layers, **options)


def solo_r101_fpn(layers=(3, 4, 23, 3), **options) -> MaskDetector:
    return solo_r50_fpn(layers=layers, **options)


def decoupled_solo_r50_fpn(**options) -> MaskDetector:
    return solo_r50_fpn(head=DecoupledSOLOHead, **options)


def decoupled_solo_light_r50_fpn(num_convs: int = 4, **options) -> MaskDetector:
    return solo_r50_fpn(head=DecoupledSOLOLightHead, num_convs=num_convs, **options)
