"""YOLOv3: three anchors in each cell of three maps predict whether they contain an object, its class, and its box.

"YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
Parameter names: mmdet ``necks/yolo_neck.py``, ``dense_heads/yolo_head.py`` (Apache-2.0); of the variants with spatial
pyramid pooling and of the tiny one: darknet's configuration files, see ``_darknet.py``.

Mirror notes:
- NCHW here, NHWC in TensorFlow: a map is transposed here before it becomes rows of anchors.
- PyTorch fills the biases of finished layers, Keras gives each layer its initial values.
"""

import math

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.anchors import grid_anchors
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.results import results
from torch_impl.classification.darknet import conv_leaky, darknet53
from torch_impl.detection._darknet import DarknetLayers
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.resize import resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.dense import binary_cross_entropy

__all__ = [
    "YOLOV3",
    "DarknetYOLOV3",
    "YOLOV3Criterion",
    "YOLOV3Head",
    "YOLOV3Neck",
    "YOLOV3PostProcess",
    "yolov3_d53",
    "yolov3_spp",
    "yolov3_tiny",
    "yolov3_tiny_criterion",
    "yolov3_tiny_postprocess",
]

LEVELS = ("p5", "p4", "p3")  # from coarse to fine
STRIDES = (32, 16, 8)
ANCHORS = (  # width and height in pixels, by level
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
TINY_ANCHORS = (((81, 82), (135, 169), (344, 319)), ((10, 14), (23, 27), (37, 58)))
EPS = 1e-6


class DetectionBlock(nn.Module):
    """Five convolutions, alternating 1x1 and 3x3.  (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        wide = 2 * out_channels
        self.conv1 = conv_leaky(in_channels, out_channels, 1)
        self.conv2 = conv_leaky(out_channels, wide, 3)
        self.conv3 = conv_leaky(wide, out_channels, 1)
        self.conv4 = conv_leaky(out_channels, wide, 3)
        self.conv5 = conv_leaky(wide, out_channels, 1)

    def forward(self, x):
        return self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))


class YOLOV3Neck(nn.Module):
    """From coarse to fine: five convolutions, and a narrow copy that is upsampled and concatenated before the next map.

    Args:
        in_channels: of the maps, from coarse to fine.
        out_channels: of the results, likewise.

    Inputs: list of three maps (N, C, H, W), from coarse to fine.
    Returns: list of three maps of the same sizes.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: tuple[int, ...]):
        super().__init__()
        self.detect1 = DetectionBlock(in_channels[0], out_channels[0])
        for i in (1, 2):
            setattr(self, f"conv{i}", conv_leaky(out_channels[i - 1], out_channels[i], 1))
            setattr(self, f"detect{i + 1}", DetectionBlock(in_channels[i] + out_channels[i], out_channels[i]))

    def forward(self, maps):
        found = [self.detect1(maps[0])]
        for i in (1, 2):
            x = getattr(self, f"conv{i}")(found[-1])
            x = resize_nearest(x, (2 * x.shape[2], 2 * x.shape[3]))
            found.append(getattr(self, f"detect{i + 1}")(torch.cat((x, maps[i]), 1)))
        return found


class YOLOV3Head(nn.Module):
    """A 3x3 convolution to twice the width and a 1x1 convolution, separately for every map.

    Args:
        channels: of the maps.
        num_classes: classes K.
        anchors: of a cell.

    Inputs: list of maps (N, C, H, W), from coarse to fine.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"``, ``"pred_p3"`` (N, A (5 + K), H, W): of every anchor x, y, w, h, object,
        classes.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, anchors: int = 3):
        super().__init__()
        self.convs_bridge = nn.ModuleList(conv_leaky(c, 2 * c, 3) for c in channels)
        self.convs_pred = nn.ModuleList()
        for c, stride in zip(channels, STRIDES):
            conv = nn.Conv2d(2 * c, anchors * (5 + num_classes), 1)
            nn.init.normal_(conv.weight, std=0.01)
            with torch.no_grad():
                conv.bias.copy_(torch.from_numpy(initial_bias(stride, num_classes, anchors)))  # mirror: fills the
            self.convs_pred.append(conv)

    def forward(self, maps):
        found = [pred(bridge(x)) for x, bridge, pred in zip(maps, self.convs_bridge, self.convs_pred)]
        return {f"pred_{level}": x for level, x in zip(LEVELS, found)}


def initial_bias(stride: int, num_classes: int, anchors: int) -> np.ndarray:
    """Initial bias for eight objects per 608-pixel image, and a probability of 0.01 for every class.  (A (5 + K),)."""
    bias = np.zeros((anchors, 5 + num_classes))
    for begin, p in ((4, 8 / (608 / stride) ** 2), (5, 0.01)):
        bias[:, begin:] = -math.log((1 - p) / p)
    return bias.reshape(-1)


class YOLOV3(nn.Module):
    """Darknet-53, neck, head.

    Args:
        depths, widths, norm_eval, frozen_stages: of the trunk, see :class:`Darknet`.
        num_classes: classes K.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: see :class:`YOLOV3Head`.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 2, 8, 8, 4),
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024),
        norm_eval: bool = True,
        frozen_stages: int = -1,
        num_classes: int = 80,
    ):
        super().__init__()
        self.backbone = darknet53(
            depths,
            widths,
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        channels = tuple(self.backbone.channels.values())[::-1]
        halves = tuple(c // 2 for c in channels)
        self.neck = YOLOV3Neck(channels, halves)
        self.bbox_head = YOLOV3Head(halves, num_classes)

    def forward(self, images):
        return self.bbox_head(self.neck(list(self.backbone(images).values())[::-1]))


class DarknetYOLOV3(DarknetLayers):
    """A network from one of darknet's configuration files.

    Args:
        rows: of the file, see :class:`DarknetLayers`; the results from coarse to fine.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"``, and of three results ``"pred_p3"``, see :class:`YOLOV3Head`.
    """

    def __init__(self, rows: tuple[tuple, ...]):
        super().__init__(rows)

    def forward(self, images):
        return {f"pred_{level}": x for level, x in zip(LEVELS, super().forward(images))}


def rows_of(outputs, anchors):
    """The maps of the levels as rows of anchors.

    Args:
        outputs: of the model.
        anchors: widths and heights, by level.

    Returns:
        (N, P, 5 + K); the anchors as boxes (P, 4) xyxy in pixels, and their strides (P,).
    """
    found, boxes, strides = [], [], []
    for i, (level, of_level) in enumerate(zip(LEVELS, anchors)):
        x, stride = outputs[f"pred_{level}"], STRIDES[i]
        n, _, h, w = x.shape
        # mirror: transposed
        found.append(x.reshape(n, len(of_level), -1, h, w).permute(0, 3, 4, 1, 2).reshape(n, h * w * len(of_level), -1))
        half = np.array(of_level, np.float64) / 2
        boxes.append(grid_anchors(np.concatenate([-half, half], -1), (h, w), (stride, stride), 0.5))
        strides.append(np.full(len(boxes[-1]), stride))
    found = torch.cat(found, 1)
    return found, *(torch.from_numpy(np.concatenate(x)).to(found) for x in (boxes, strides))


class YOLOV3Criterion(nn.Module):
    """Cross-entropies of object, classes and position, squared errors of the sizes' logarithms; sums over the batch.

    An anchor belongs to an object if its cell contains the object's centre and it overlaps the object by more than
    ``threshold``; an object always gets the best anchors of such cells. Anchors that overlap an object by more than
    ``threshold`` in other cells are neither objects nor background.

    Args:
        threshold: as above.
        xy_weight, wh_weight: of the two losses of boxes.
        anchors: widths and heights in pixels, by level from coarse to fine.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_conf"``, ``"loss_xy"``, ``"loss_wh"``, ``"total"``.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        xy_weight: float = 2.0,
        wh_weight: float = 2.0,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = ANCHORS,
    ):
        super().__init__()
        self.threshold, self.xy_weight, self.wh_weight, self.anchors = threshold, xy_weight, wh_weight, anchors

    def forward(self, outputs, targets):
        found, anchors, stride = rows_of(outputs, self.anchors)
        boxes, valid = targets["boxes"].to(found.dtype), targets["valid"]
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2

        # (N, M, P): whether an anchor's cell contains an object's centre
        cell = torch.floor((anchors[:, :2] + anchors[:, 2:]) / 2 / stride[:, None])
        here = torch.floor(centre[:, :, None] / stride[:, None]) == cell
        responsible = (here.all(-1) & valid[..., None]).any(1)  # (N, P)
        iou = torch.where(valid[..., None], pairwise_iou(boxes, anchors, EPS), -1.0)
        background = iou.amax(1) <= self.threshold
        iou = torch.where(responsible[:, None], iou, -1.0)
        best, index = iou.amax(1), argmax(iou, 1)
        matched = torch.where((best > self.threshold) & responsible, index, -1)
        highest = iou.amax(2, keepdim=True)
        forced = (iou == highest) & (highest > 0)
        slots = torch.arange(boxes.shape[1], device=boxes.device)[:, None]
        last = torch.where(forced, slots, -1).amax(1)
        matched = torch.where(last >= 0, last, matched)
        positive = matched >= 0

        wanted = take_rows(boxes, matched)
        middle, size = (wanted[..., :2] + wanted[..., 2:]) / 2, wanted[..., 2:] - wanted[..., :2]
        offset = (middle - (anchors[:, :2] + anchors[:, 2:]) / 2) / stride[:, None] + 0.5
        offset = torch.clamp(offset, EPS, 1 - EPS)
        ratio = torch.log(torch.clamp(size / (anchors[:, 2:] - anchors[:, :2]), min=EPS))
        labels = take_rows(targets["labels"], matched)
        classes = torch.arange(found.shape[-1] - 5, device=found.device)
        one_hot = (labels[..., None] == classes).to(found.dtype)

        def total(losses, mask):
            return torch.where(mask, losses, 0.0).sum()

        confidence = binary_cross_entropy(found[..., 4], positive.to(found.dtype))
        losses = {
            "loss_cls": total(binary_cross_entropy(found[..., 5:], one_hot), positive[..., None]),
            "loss_conf": total(confidence, positive | background),
            "loss_xy": self.xy_weight * total(binary_cross_entropy(found[..., :2], offset), positive[..., None]),
            "loss_wh": self.wh_weight * total((found[..., 2:4] - ratio).square(), positive[..., None]),
        }
        return {**losses, "total": sum(losses.values())}


class YOLOV3PostProcess(nn.Module):
    """The best boxes of every image, chosen by the class alone among anchors with an object, then scored by both.

    Args:
        object_threshold: anchors with a smaller probability of an object are dropped.
        score_threshold: pairs of anchor and class of at most this probability of the class are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        anchors: see :class:`YOLOV3Criterion`.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        object_threshold: float = 0.005,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = ANCHORS,
    ):
        super().__init__()
        self.object_threshold, self.score_threshold, self.candidates = object_threshold, score_threshold, candidates
        self.iou_threshold, self.detections, self.anchors = iou_threshold, detections, anchors

    def forward(self, outputs):
        found, anchors, stride = rows_of(outputs, self.anchors)
        centre, half = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]) / 2
        centre = centre + (torch.sigmoid(found[..., :2]) - 0.5) * stride[:, None]
        half = half * torch.exp(found[..., 2:4])
        boxes, present = torch.cat((centre - half, centre + half), -1), torch.sigmoid(found[..., 4])
        scores = torch.where((present >= self.object_threshold)[..., None], torch.sigmoid(found[..., 5:]), -1.0)
        classes = scores.shape[-1]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, valid = pairs - index * classes, scores > self.score_threshold
        scores, boxes = scores * take_rows(present, index), take_rows(boxes, index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov3_tiny_criterion(anchors=TINY_ANCHORS, **options) -> YOLOV3Criterion:
    return YOLOV3Criterion(anchors=anchors, **options)


def yolov3_tiny_postprocess(anchors=TINY_ANCHORS, **options) -> YOLOV3PostProcess:
    return YOLOV3PostProcess(anchors=anchors, **options)


def yolov3_d53(depths=(1, 2, 8, 8, 4), **options) -> YOLOV3:
    return YOLOV3(depths=depths, **options)


def yolov3_spp(width: float = 1.0, depths: tuple[int, ...] = (1, 2, 8, 8, 4), num_classes: int = 80) -> DarknetYOLOV3:
    """The configuration with spatial pyramid pooling: three parallel poolings of the coarsest map."""
    c = [int(n * width) for n in (32, 64, 128, 256, 512, 1024)]
    rows, ends = [("conv", c[0], 3, 1)], []
    for i, depth in enumerate(depths):
        rows.append(("conv", c[i + 1], 3, 2))
        for _ in range(depth):
            rows += [("conv", c[i], 1, 1), ("conv", c[i + 1], 3, 1), ("shortcut", -3)]
        ends.append(len(rows) - 1)
    last = [("plain", 3 * (5 + num_classes)), ("out",)]
    rows += [("conv", c[4], 1, 1), ("conv", c[5], 3, 1), ("conv", c[4], 1, 1)]
    rows += [("max", 5, 1), ("route", (-2,)), ("max", 9, 1), ("route", (-4,)), ("max", 13, 1)]
    rows += [("route", (-1, -3, -5, -6)), ("conv", c[4], 1, 1)]
    rows += [("conv", c[5], 3, 1), ("conv", c[4], 1, 1), ("conv", c[5], 3, 1), *last]
    for wide, trunk in ((4, ends[3]), (3, ends[2])):
        rows += [("route", (-4,)), ("conv", c[wide - 1], 1, 1), ("upsample",), ("route", (-1, trunk))]
        rows += [("conv", c[wide - 1], 1, 1), ("conv", c[wide], 3, 1)] * 3
        rows += last
    return DarknetYOLOV3(tuple(rows))


def yolov3_tiny(width: float = 1.0, num_classes: int = 80) -> DarknetYOLOV3:
    """The configuration with seven convolutions and two maps."""
    c = [int(n * width) for n in (16, 32, 64, 128, 256, 512, 1024)]
    last = [("plain", 3 * (5 + num_classes)), ("out",)]
    rows = []
    for channels in c[:5]:
        rows += [("conv", channels, 3, 1), ("max", 2, 2)]
    rows += [("conv", c[5], 3, 1), ("max", 2, 1), ("conv", c[6], 3, 1)]
    rows += [("conv", c[4], 1, 1), ("conv", c[5], 3, 1), *last]
    rows += [("route", (-4,)), ("conv", c[3], 1, 1), ("upsample",), ("route", (-1, 8))]
    rows += [("conv", c[4], 3, 1), *last]
    return DarknetYOLOV3(tuple(rows))
