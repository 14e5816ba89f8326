"""YOLOv5: cross-stage partial blocks, a pyramid with top-down and bottom-up paths, and objects assigned to neighbouring
cells too.

ultralytics/yolov5, releases 6.0 to 7.0, 2020 to 2022; no paper. "CSPNet", 2019, arXiv:1911.11929; "Path Aggregation
Network", 2018, arXiv:1803.01534.
Parameter names: ultralytics/yolov5 ``models/yolo.py``, ``models/common.py`` (AGPL-3.0; facts only, no code).
What to look at: an object belongs to the cell of its centre and to the two nearest neighbours; the target of an
anchor's objectness is the overlap of its own prediction.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the head's maps are transposed before they are split into anchors here.
- PyTorch adds to the biases of finished layers, Keras gives each layer its initial values.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.points import grid_points
from torch_impl.boxes.results import results
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.pooling import max_pool2d
from torch_impl.layers.resize import resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box_iou import complete_iou
from torch_impl.losses.dense import binary_cross_entropy

__all__ = [
    "YOLOV5",
    "YOLOV5Criterion",
    "YOLOV5PostProcess",
    "yolov5l",
    "yolov5m",
    "yolov5n",
    "yolov5s",
    "yolov5x",
]

LEVELS = ("p3", "p4", "p5")
STRIDES = (8, 16, 32)
ANCHORS = (  # width and height in pixels, by level
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
BALANCE = (4.0, 1.0, 0.4)  # of the levels, in the loss of objects
NEIGHBOURS = ((0, 0), (0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5))  # offsets subtracted from a centre: none, left, up, ...


class Conv(nn.Module):
    """Convolution that keeps the size at stride 1, batch normalisation, SiLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        padding: None for half the kernel.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H', W').
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int | None = None
    ):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, and an optional shortcut.  (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.shortcut = shortcut
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, 3)

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Cross-stage partial block: one half of the channels passes bottlenecks, the other bypasses them.

    Args:
        in_channels, out_channels: widths.
        depth: bottlenecks.
        shortcut: whether these have shortcuts.

    Inputs: (N, C, H, W).  Returns: (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, shortcut: bool = True):
        super().__init__()
        half = out_channels // 2
        self.cv1 = Conv(in_channels, half)
        self.cv2 = Conv(in_channels, half)
        self.cv3 = Conv(2 * half, out_channels)
        self.m = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(depth))

    def forward(self, x):
        y = self.cv1(x)
        for block in self.m:
            y = block(y)
        return self.cv3(torch.cat((y, self.cv2(x)), 1))


class SPPF(nn.Module):
    """A chain of three poolings of size 5, concatenated.  (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(2 * channels, channels)

    def forward(self, x):
        found = [self.cv1(x)]
        for _ in range(3):
            found.append(max_pool2d(found[-1], 5, 1, 2))
        return self.cv2(torch.cat(found, 1))


class Detect(nn.Module):
    """A 1x1 convolution of every level.

    Args:
        channels: of the levels.
        num_classes: classes K.

    Inputs: list of maps (N, C, H, W).
    Returns: list of (N, A, H, W, 5 + K): x, y, w, h, object, classes, as logits.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        # not used: checkpoints contain the anchors in strides
        self.register_buffer("anchors", torch.from_numpy(relative_anchors()).float())
        convs = [nn.Conv2d(c, 3 * (5 + num_classes), 1) for c in channels]
        for conv, stride in zip(convs, STRIDES):
            with torch.no_grad():
                conv.bias.add_(torch.from_numpy(initial_bias(stride, num_classes)))  # mirror: adds to
        self.m = nn.ModuleList(convs)

    def forward(self, maps):
        found = []
        for x, conv in zip(maps, self.m):
            n, _, h, w = x.shape
            # mirror: transposed
            found.append(conv(x).reshape(n, 3, 5 + self.num_classes, h, w).permute(0, 1, 3, 4, 2))
        return found


def relative_anchors() -> np.ndarray:
    """Widths and heights in strides.  (levels, A, 2) float64."""
    return np.array(ANCHORS, np.float64) / np.array(STRIDES)[:, None, None]


def initial_bias(stride: int, num_classes: int) -> np.ndarray:
    """Initial bias for eight objects per 640-pixel image, and a small probability for every class.  (A (5 + K),)."""
    bias = np.zeros((3, 5 + num_classes))
    bias[:, 4] = math.log(8 / (640 / stride) ** 2)
    bias[:, 5:] = math.log(0.6 / (num_classes - 0.99999))
    return bias.reshape(-1)


def doubled(x):
    """Every pixel four times.  (N, C, H, W) -> (N, C, 2 H, 2 W)."""
    return resize_nearest(x, (2 * x.shape[2], 2 * x.shape[3]))


class YOLOV5(nn.Module):
    """Trunk, neck and head as one list, whose layers have the indices of the configuration file.

    Args:
        depth: multiplier of the bottlenecks.
        width: multiplier of the channels, which are rounded up to multiples of 8.
        num_classes: classes K.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p3"``, ``"pred_p4"``, ``"pred_p5"`` (N, A, H / s, W / s, 5 + K) of strides s 8, 16, 32: x, y,
        w, h, object, classes of every anchor, as logits.
    """

    def __init__(self, depth: float = 0.33, width: float = 0.5, num_classes: int = 80):
        super().__init__()
        c = [math.ceil(n * width / 8) * 8 for n in (64, 128, 256, 512, 1024)]
        n = [max(round(n * depth), 1) for n in (3, 6, 9)]
        self.model = nn.ModuleList(
            [
                Conv(3, c[0], 6, 2, 2),
                Conv(c[0], c[1], 3, 2),
                C3(c[1], c[1], n[0]),
                Conv(c[1], c[2], 3, 2),
                C3(c[2], c[2], n[1]),
                Conv(c[2], c[3], 3, 2),
                C3(c[3], c[3], n[2]),
                Conv(c[3], c[4], 3, 2),
                C3(c[4], c[4], n[0]),
                SPPF(c[4]),
                Conv(c[4], c[3]),
                nn.Identity(),  # 11: doubled
                nn.Identity(),  # 12: with 6
                C3(2 * c[3], c[3], n[0], False),
                Conv(c[3], c[2]),
                nn.Identity(),  # 15: doubled
                nn.Identity(),  # 16: with 4
                C3(2 * c[2], c[2], n[0], False),
                Conv(c[2], c[2], 3, 2),
                nn.Identity(),  # 19: with 14
                C3(2 * c[2], c[3], n[0], False),
                Conv(c[3], c[3], 3, 2),
                nn.Identity(),  # 22: with 10
                C3(2 * c[3], c[4], n[0], False),
                Detect((c[2], c[3], c[4]), num_classes),
            ]
        )

    def forward(self, images):
        x, found = images, {}
        for i in range(11):
            x = found[i] = self.model[i](x)
        x = self.model[13](torch.cat((doubled(x), found[6]), 1))
        found[14] = self.model[14](x)
        p3 = self.model[17](torch.cat((doubled(found[14]), found[4]), 1))
        p4 = self.model[20](torch.cat((self.model[18](p3), found[14]), 1))
        p5 = self.model[23](torch.cat((self.model[21](p4), found[10]), 1))
        return {f"pred_{level}": x for level, x in zip(LEVELS, self.model[24]((p3, p4, p5)))}


class YOLOV5Criterion(nn.Module):
    """Complete IoU of the boxes, cross-entropies of objects and classes.

    An anchor matches an object if their widths and heights differ by less than the factor ``anchor_ratio``. It counts
    in the cell of the object's centre, in the nearer of the left and right neighbours, and in the nearer of the upper
    and lower ones.

    Args:
        box_gain, object_gain, class_gain: weights of the three losses.
        anchor_ratio: as above.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"box"``, ``"obj"``, ``"cls"``, with their gains, and ``"total"``, their sum times the
        size of the batch.
    """

    def __init__(
        self,
        box_gain: float = 0.05,
        object_gain: float = 1.0,
        class_gain: float = 0.5,
        anchor_ratio: float = 4.0,
    ):
        super().__init__()
        self.box_gain, self.object_gain, self.class_gain = box_gain, object_gain, class_gain
        self.anchor_ratio = anchor_ratio

    def forward(self, outputs, targets):
        box = objects = classes = 0.0
        for i, level in enumerate(LEVELS):
            found = self._of_level(outputs[f"pred_{level}"], targets, i)
            box, objects, classes = box + found[0], objects + BALANCE[i] * found[1], classes + found[2]
        losses = {
            "box": self.box_gain * box,
            "obj": self.object_gain * objects,
            "cls": self.class_gain * classes,
        }
        return {**losses, "total": sum(losses.values()) * outputs["pred_p3"].shape[0]}

    def _of_level(self, found, targets, level):
        """Means: of 1 - CIoU of the matches, of the objects' cross-entropy, of the classes' of the matches."""
        n, count, height, width, columns = found.shape
        dtype, device = found.dtype, found.device
        anchors = torch.from_numpy(relative_anchors()[level]).to(found)  # (A, 2)
        boxes = targets["boxes"].to(dtype) / STRIDES[level]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)

        ratio = size[:, None] / anchors[:, None]  # (N, A, M, 2)
        fits = torch.maximum(ratio, 1 / ratio).amax(-1) < self.anchor_ratio
        limit = torch.tensor([width, height], dtype=dtype, device=device)
        rest = limit - centre
        near = [(x - torch.floor(x) < 0.5) & (x > 1) for x in (centre, rest)]  # (N, M, 2)
        sides = torch.stack((torch.ones_like(valid), *near[0].unbind(-1), *near[1].unbind(-1)), 1)  # (N, 5, M)
        mine = sides[:, :, None] & (fits & valid[:, None])[:, None]  # (N, 5, A, M)
        offsets = torch.tensor(NEIGHBOURS, dtype=dtype, device=device)
        cell = torch.trunc(centre[:, None] - offsets[:, None])  # (N, 5, M, 2)
        cell = torch.minimum(torch.clamp(cell, min=0.0), limit - 1)

        # all candidates in one row, ordered so that the last of those at one anchor counts
        anchor = torch.arange(count, device=device)[:, None]
        index = (anchor * height + cell[..., 1].long()[:, :, None]) * width + cell[..., 0].long()[:, :, None]
        index, mine = index.flatten(1), mine.flatten(1)  # (N, 5 A M)
        wanted = torch.cat((centre[:, None] - cell, size[:, None].expand(-1, 5, -1, -1)), -1)
        wanted = wanted[:, :, None].expand(-1, -1, count, -1, -1).flatten(1, 3)
        labels = targets["labels"][:, None, None].expand(-1, 5, count, -1).flatten(1)
        shape = anchors[:, None].expand(5, -1, boxes.shape[1], -1).flatten(0, 2)  # (5 A M, 2)

        cells = found.reshape(n, -1, columns)
        chosen = take_rows(cells, index)
        place = 2 * torch.sigmoid(chosen[..., :2]) - 0.5
        extent = (2 * torch.sigmoid(chosen[..., 2:4])).square() * shape
        predicted = torch.where(mine[..., None], torch.cat((place, extent), -1), 1.0)
        overlap = complete_iou(predicted, torch.where(mine[..., None], wanted, 1.0))
        matches = mine.to(dtype).sum().clamp(min=1.0)
        box = torch.where(mine, 1 - overlap, 0.0).sum() / matches

        kinds = torch.arange(columns - 5, device=device)
        one_hot = (labels[..., None] == kinds).to(dtype)
        losses = binary_cross_entropy(chosen[..., 5:], one_hot).sum(-1)
        classes = torch.where(mine, losses, 0.0).sum() / (matches * (columns - 5))
        if columns == 6:
            classes = classes * 0.0

        # an anchor takes the overlap of its last match; the others write to a cell that is cut off
        later = torch.triu(torch.ones(index.shape[1], index.shape[1], dtype=torch.bool, device=device), 1)
        beaten = ((index[:, :, None] == index[:, None]) & mine[:, None] & later).any(2)
        slot = torch.where(mine & ~beaten, index, cells.shape[1])
        share = torch.clamp(overlap.detach(), min=0.0)  # mirror: gradients are cut
        present = torch.zeros_like(cells[:, :1, 0]).expand(-1, cells.shape[1] + 1)
        present = present.scatter(1, slot, share)[:, :-1]
        return box, binary_cross_entropy(cells[..., 4], present).mean(), classes


class YOLOV5PostProcess(nn.Module):
    """The best boxes of every image, with the most probable class of each anchor, suppressed by class.

    Args:
        score_threshold: anchors whose probability of an object, alone or times its class's, is at most this are
            dropped.
        candidates: anchors kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.25,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 300,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def decode(self, outputs):
        """All anchors, level by level.  (N, P, 5 + K): x, y, w, h in pixels, probabilities of object and classes."""
        found = []
        for i, level in enumerate(LEVELS):
            x = torch.sigmoid(outputs[f"pred_{level}"])
            n, _, height, width, columns = x.shape
            corner = torch.from_numpy(grid_points((height, width), 1, 0.0)).to(x).reshape(height, width, 2)
            anchors = torch.tensor(ANCHORS[i], dtype=x.dtype, device=x.device)[:, None, None]
            centre = (2 * x[..., :2] + corner - 0.5) * STRIDES[i]
            x = torch.cat((centre, (2 * x[..., 2:4]).square() * anchors, x[..., 4:]), -1)
            found.append(x.reshape(n, -1, columns))
        return torch.cat(found, 1)

    def forward(self, outputs):
        found = self.decode(outputs)
        centre, half, present = found[..., :2], found[..., 2:4] / 2, found[..., 4]
        boxes, scores = torch.cat((centre - half, centre + half), -1), found[..., 5:] * present[..., None]
        labels, scores = argmax(scores), scores.amax(-1)
        scores = torch.where(present > self.score_threshold, scores, -1.0)
        scores, index = top_k(scores, min(self.candidates, scores.shape[1]))
        boxes, labels, valid = take_rows(boxes, index), take_rows(labels, index), scores > self.score_threshold
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov5n(depth: float = 0.33, width: float = 0.25, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5s(depth: float = 0.33, width: float = 0.5, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5m(depth: float = 0.67, width: float = 0.75, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5l(depth: float = 1.0, width: float = 1.0, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5x(depth: float = 1.33, width: float = 1.25, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)
