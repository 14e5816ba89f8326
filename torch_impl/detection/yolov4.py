"""YOLOv4: cross-stage partial trunk with Mish, spatial pyramid pooling, and a pyramid with top-down and bottom-up
paths.

"YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, arXiv:2004.10934.
Parameter names and losses: Tianxiaomo/pytorch-YOLOv4 ``models.py``, ``train.py`` (Apache-2.0); decoding of results:
AlexeyAB/darknet ``cfg/yolov4.cfg``, whose centres reach beyond their cells.

Mirror notes:
- NCHW here, NHWC in TensorFlow: a map is transposed here before it becomes rows of anchors.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.centres import corners
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.points import grid_points
from torch_impl.boxes.results import results
from torch_impl.layers.activation import LeakyReLU
from torch_impl.layers.mish import Mish
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.pooling import max_pool2d
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box_iou import complete_iou
from torch_impl.losses.dense import binary_cross_entropy

__all__ = ["YOLOV4", "YOLOV4Criterion", "YOLOV4PostProcess", "yolov4"]

LEVELS = ("p3", "p4", "p5")
STRIDES = (8, 16, 32)
ANCHORS = (  # width and height in pixels, by level
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
SCALES = (1.2, 1.1, 1.05)  # of the centres' sigmoids around the middle of the cell


class ConvUnit(nn.Module):
    """Convolution that keeps the size at stride 1, batch normalisation, activation.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        mish: Mish instead of a leaky ReLU of slope 0.1.
        plain: a bias instead of normalisation and activation.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        mish: bool = False,
        plain: bool = False,
    ):
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=plain)
        rest = [] if plain else [nn.BatchNorm2d(out_channels), Mish() if mish else LeakyReLU(0.1)]
        self.conv = nn.ModuleList([conv, *rest])

    def forward(self, x):
        for layer in self.conv:
            x = layer(x)
        return x


class ResidualBlocks(nn.Module):
    """Pairs of a 1x1 and a 3x3 convolution, each with a shortcut.  (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.module_list = nn.ModuleList(
            nn.ModuleList([ConvUnit(channels, channels, 1, mish=True), ConvUnit(channels, channels, 3, mish=True)])
            for _ in range(depth)
        )

    def forward(self, x):
        for first, second in self.module_list:
            x = x + second(first(x))
        return x


class FirstStage(nn.Module):
    """The stem and the first stage, whose two branches are as wide as the stage.

    Args:
        in_channels, out_channels: widths of the image and of the stage.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H / 2, W / 2).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvUnit(in_channels, half, 3, mish=True)
        self.conv2 = ConvUnit(half, out_channels, 3, 2, mish=True)
        self.conv3 = ConvUnit(out_channels, out_channels, 1, mish=True)
        self.conv4 = ConvUnit(out_channels, out_channels, 1, mish=True)
        self.conv5 = ConvUnit(out_channels, half, 1, mish=True)
        self.conv6 = ConvUnit(half, out_channels, 3, mish=True)
        self.conv7 = ConvUnit(out_channels, out_channels, 1, mish=True)
        self.conv8 = ConvUnit(2 * out_channels, out_channels, 1, mish=True)

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        y = self.conv4(x)
        y = self.conv7(y + self.conv6(self.conv5(y)))
        return self.conv8(torch.cat((y, self.conv3(x)), 1))


class Stage(nn.Module):
    """A convolution that halves the map, and two branches of half the width, one of them with residual blocks.

    Args:
        in_channels, out_channels: widths.
        depth: residual blocks.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H / 2, W / 2).
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int):
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvUnit(in_channels, out_channels, 3, 2, mish=True)
        self.conv2 = ConvUnit(out_channels, half, 1, mish=True)
        self.conv3 = ConvUnit(out_channels, half, 1, mish=True)
        self.resblock = ResidualBlocks(half, depth)
        self.conv4 = ConvUnit(half, half, 1, mish=True)
        self.conv5 = ConvUnit(out_channels, out_channels, 1, mish=True)

    def forward(self, x):
        x = self.conv1(x)
        y = self.conv4(self.resblock(self.conv3(x)))
        return self.conv5(torch.cat((y, self.conv2(x)), 1))


def numbered(owner, first: int, widths: list[tuple[int, int, int]]) -> None:
    """Give an owner the convolutions ``conv{first}`` and so on, of (width before, width, kernel size)."""
    for i, (before, width, kernel_size) in enumerate(widths, start=first):
        setattr(owner, f"conv{i}", ConvUnit(before, width, kernel_size))


def apply(owner, x, first: int, last: int):
    """Apply the convolutions ``conv{first}`` to ``conv{last}`` of an owner, one after the other."""
    for i in range(first, last + 1):
        x = getattr(owner, f"conv{i}")(x)
    return x


class Neck(nn.Module):
    """Spatial pyramid pooling of the coarsest map, and the path down to the finest.

    Args:
        channels: C of the finest of the three maps; the others have 2 C and 4 C.

    Inputs: list of three maps (N, C, H, W), from fine to coarse.
    Returns: list of three maps of half the channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        a, b, c, d = channels // 2, channels, 2 * channels, 4 * channels
        numbered(self, 1, [(d, c, 1), (c, d, 3), (d, c, 1), (4 * c, c, 1), (c, d, 3), (d, c, 1)])
        numbered(self, 7, [(c, b, 1), (c, b, 1), (c, b, 1), (b, c, 3), (c, b, 1), (b, c, 3), (c, b, 1)])
        numbered(self, 14, [(b, a, 1), (b, a, 1), (b, a, 1), (a, b, 3), (b, a, 1), (a, b, 3), (b, a, 1)])

    def forward(self, maps):
        x = apply(self, maps[2], 1, 3)
        pooled = [max_pool2d(x, size, 1, size // 2) for size in (13, 9, 5)]
        coarse = apply(self, torch.cat((*pooled, x), 1), 4, 6)
        middle = self._joined(coarse, maps[1], 7)
        return [self._joined(middle, maps[0], 14), middle, coarse]

    def _joined(self, coarse, fine, first):
        up = resize_nearest(getattr(self, f"conv{first}")(coarse), map_size(fine))
        fine = getattr(self, f"conv{first + 1}")(fine)
        return apply(self, torch.cat((fine, up), 1), first + 2, first + 6)


class Head(nn.Module):
    """The path back to the coarsest map, and two convolutions for every map.

    Args:
        channels: C of the finest of the three maps; the others have 2 C and 4 C.
        columns: values per cell.

    Inputs: list of three maps, from fine to coarse.
    Returns: list of three maps (N, columns, H, W).
    """

    def __init__(self, channels: int, columns: int):
        super().__init__()
        a, b, c, d = channels, 2 * channels, 4 * channels, 8 * channels
        self.conv1, self.conv2 = ConvUnit(a, b, 3), ConvUnit(b, columns, 1, plain=True)
        self.conv3 = ConvUnit(a, b, 3, 2)
        numbered(self, 4, [(c, b, 1), (b, c, 3), (c, b, 1), (b, c, 3), (c, b, 1), (b, c, 3)])
        self.conv10 = ConvUnit(c, columns, 1, plain=True)
        self.conv11 = ConvUnit(b, c, 3, 2)
        numbered(self, 12, [(d, c, 1), (c, d, 3), (d, c, 1), (c, d, 3), (d, c, 1), (c, d, 3)])
        self.conv18 = ConvUnit(d, columns, 1, plain=True)

    def forward(self, maps):
        fine, middle, coarse = maps
        middle = apply(self, torch.cat((self.conv3(fine), middle), 1), 4, 8)
        coarse = apply(self, torch.cat((self.conv11(middle), coarse), 1), 12, 16)
        return [apply(self, fine, 1, 2), apply(self, middle, 9, 10), apply(self, coarse, 17, 18)]


class YOLOV4(nn.Module):
    """Trunk, neck and head.

    Args:
        depths: residual blocks of the second to fifth stage.
        width: channels of the first convolution; the first stage has twice as many, the last 32 times.
        num_classes: classes K.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p3"``, ``"pred_p4"``, ``"pred_p5"`` (N, A (5 + K), H / s, W / s), strides s 8, 16, 32: x, y,
        w, h, object, classes of every anchor.
    """

    def __init__(self, depths: tuple[int, ...] = (2, 8, 8, 4), width: int = 32, num_classes: int = 80):
        super().__init__()
        self.down1 = FirstStage(3, 2 * width)
        for i, depth in enumerate(depths):
            setattr(self, f"down{i + 2}", Stage(width * 2 ** (i + 1), width * 2 ** (i + 2), depth))
        self.neck = Neck(8 * width)
        self.head = Head(4 * width, 3 * (5 + num_classes))

    def forward(self, images):
        x, maps = images, []
        for i in range(1, 6):
            x = getattr(self, f"down{i}")(x)
            maps.append(x)
        return {f"pred_{level}": x for level, x in zip(LEVELS, self.head(self.neck(maps[2:])))}


def rows_of(x):
    """A level's map as rows of anchors.  (N, A (5 + K), H, W) -> (N, A, H * W, 5 + K)."""
    n, _, h, w = x.shape
    return x.reshape(n, 3, -1, h * w).transpose(2, 3)  # mirror: transposed


def decoded(rows, size: tuple[int, int], level: int, scale: float = 1.0):
    """Centres and sizes in cells.

    Args:
        rows: (N, A, H * W, 5 + K).
        size: H and W.
        level: index.
        scale: of the centres' sigmoids around the middle of the cell.

    Returns:
        (N, A, H * W, 4).
    """
    corner = torch.from_numpy(grid_points(size, 1, 0.0)).to(rows)
    anchors = torch.from_numpy(np.array(ANCHORS[level]) / STRIDES[level]).to(rows)[:, None]
    centre = torch.sigmoid(rows[..., :2]) * scale - (scale - 1) / 2 + corner
    return torch.cat((centre, torch.exp(rows[..., 2:4]) * anchors), -1)


class YOLOV4Criterion(nn.Module):
    """Cross-entropies of position, object and classes, squared errors of the sizes' logarithms; sums over the batch.

    An object belongs to the most similar of the nine anchors, in the cell of its centre. Anchors whose
    prediction overlaps an object by more than ``threshold`` are not background, on the levels that have an object.

    Args:
        threshold: as above.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding; of several objects at one anchor only the last one's box counts, but
        all their classes.
    Returns: dict of scalars: ``"loss_xy"``, ``"loss_wh"``, ``"loss_obj"``, ``"loss_cls"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold

    def forward(self, outputs, targets):
        losses = dict.fromkeys(("loss_xy", "loss_wh", "loss_obj", "loss_cls"), 0.0)
        for level, name in enumerate(LEVELS):
            found = self._of_level(outputs[f"pred_{name}"], targets, level)
            losses = {key: losses[key] + loss for key, loss in zip(losses, found)}
        return {**losses, "total": sum(losses.values())}

    def _of_level(self, x, targets, level):
        height, width = map_size(x)
        rows = rows_of(x)  # (N, A, P, 5 + K)
        dtype, device = rows.dtype, rows.device
        boxes = targets["boxes"].to(dtype) / STRIDES[level]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)

        every = torch.from_numpy(np.concatenate(ANCHORS) / STRIDES[level]).to(rows)
        likeness = complete_iou(*(torch.cat((s / 2, s), -1) for s in (size[:, :, None], every)), eps=1e-16)
        best = argmax(likeness)  # (N, M), of nine
        mine = valid & (torch.div(best, 3, rounding_mode="floor") == level)
        cell = torch.floor(centre)
        place = cell[..., 1].long() * width + cell[..., 0].long()
        # (N, M, A, P): which anchor is an object's
        anchor = torch.arange(3, device=device)[:, None] == (best - 3 * level)[..., None, None]
        here = anchor & (torch.arange(height * width, device=device) == place[..., None, None]) & mine[..., None, None]
        positive = here.any(1)  # (N, A, P)

        predicted = corners(decoded(rows, (height, width), level)).detach()  # mirror: gradients are cut
        overlap = pairwise_iou(predicted.flatten(1, 2), boxes)
        overlap = torch.where(valid[:, None], overlap, 0.0).amax(-1).reshape(positive.shape)
        ignored = (overlap > self.threshold) & mine.any(1)[:, None, None]

        slots = torch.arange(boxes.shape[1], device=device)[:, None, None]
        index = torch.where(here, slots, -1).amax(1).flatten(1)  # (N, A P), the last of several objects
        shape = positive.shape
        offset = take_rows(centre - cell, index).reshape(*shape, 2)
        extent = take_rows(size, index).reshape(*shape, 2)
        wanted = torch.log(extent / every[3 * level : 3 * level + 3, None] + 1e-16)
        weight = 2 - extent[..., 0] * extent[..., 1] / (height * width)
        kinds = torch.arange(rows.shape[-1] - 5, device=device) == targets["labels"][..., None]  # (N, M, K)
        classes = (here.to(dtype).flatten(2).transpose(1, 2) @ kinds.to(dtype)).clamp(max=1.0)
        classes = classes.reshape(*shape, -1)

        def total(losses, mask):
            return torch.where(mask, losses, 0.0).sum()

        present = binary_cross_entropy(rows[..., 4], positive.to(dtype))
        return (
            total(binary_cross_entropy(rows[..., :2], offset) * weight[..., None], positive[..., None]),
            total((rows[..., 2:4] - wanted).square() * weight[..., None], positive[..., None]) / 2,
            total(present, positive | ~ignored),
            total(binary_cross_entropy(rows[..., 5:], classes), positive[..., None]),
        )


class YOLOV4PostProcess(nn.Module):
    """The best boxes of every image, scored by the probability of an object times that of its class, suppressed by
    class.

    Args:
        score_threshold: pairs of anchor and class of at most this score are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        scales: by which the centres reach beyond their cells, by level.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.4,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        scales: tuple[float, ...] = SCALES,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.scales = iou_threshold, detections, tuple(scales)

    def forward(self, outputs):
        boxes, scores = [], []
        for i, level in enumerate(LEVELS):
            x = outputs[f"pred_{level}"]
            rows = rows_of(x)
            boxes.append(corners(decoded(rows, map_size(x), i, self.scales[i])).flatten(1, 2) * STRIDES[i])
            scores.append((torch.sigmoid(rows[..., 5:]) * torch.sigmoid(rows[..., 4:5])).flatten(1, 2))
        boxes, scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        classes = scores.shape[-1]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, boxes, valid = pairs - index * classes, take_rows(boxes, index), scores > self.score_threshold
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov4(depths=(2, 8, 8, 4), **options) -> YOLOV4:
    return YOLOV4(depths=depths, **options)
