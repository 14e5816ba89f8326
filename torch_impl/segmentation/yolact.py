"""YOLACT: boxes with coefficients, and prototypes that all instances share; a mask is a weighted sum of prototypes.

"YOLACT: Real-time Instance Segmentation", 2019, arXiv:1904.02689. Parameter names: dbolya/yolact ``yolact.py`` and
``backbone.py`` (MIT). What to look at: masks are one product of matrices; suppression of all boxes of a class at once
("Fast NMS") lets a suppressed box suppress others.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where maps become rows of priors without being transposed.
- Reversed lists of layers have the reference's numbers in both panels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.coders import DeltaCoder
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import first_positives
from torch_impl.classification.resnet import CONV, Bottleneck
from torch_impl.layers.activation import LeakyReLU
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.segmentation.unet import Upsample

__all__ = [
    "YOLACT",
    "YOLACTFPN",
    "PredictionModule",
    "YOLACTCriterion",
    "YOLACTDarknet",
    "YOLACTPostProcess",
    "YOLACTResNet",
    "best_detections",
    "cut_masks",
    "drawn_detections",
    "fast_nms",
    "match_priors",
    "priors",
    "yolact_base",
    "yolact_darknet53",
    "yolact_im400",
    "yolact_im400_criterion",
    "yolact_im400_postprocess",
    "yolact_im700",
    "yolact_im700_criterion",
    "yolact_im700_postprocess",
    "yolact_pascal_criterion",
    "yolact_pascal_postprocess",
    "yolact_resnet50",
    "yolact_resnet50_pascal",
]

SCALES = (24, 48, 96, 192, 384)  # of the priors of P3 to P7, in pixels of an image of 550 x 550
RATIOS = (1.0, 0.5, 2.0)
STDS = (0.1, 0.1, 0.2, 0.2)
IM400 = {"scales": (17, 34, 69, 139, 279), "max_size": 400}
IM700 = {"scales": (30, 61, 122, 244, 488), "max_size": 700}
PASCAL = {"scales": (32, 64, 128, 256, 512), "square": False}
LEAST_LOG = -100.0  # PyTorch's binary cross-entropy clips logarithms there
LARGEST_SLOPE = 1e12  # and their slope


class YOLACTResNet(nn.Module):
    """A residual network's maps C3 to C5; its stages are ``layers.0`` to ``layers.3``.

    Args:
        layers: blocks of each stage.
        planes: nominal width of each stage.
        conv, interval: makes the 3x3 convolutions of every ``interval``-th block of the last three stages, from the
            first on; 0 for none.

    Inputs: (N, 3, H, W).
    Returns: three maps (N, C_i, H / 8, W / 8) and so on, rounded up.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        conv=CONV,
        interval: int = 0,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layers, channels = nn.ModuleList(), planes[0]
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            blocks = []
            for block in range(depth):
                made = conv if interval and i > 0 and block % interval == 0 else CONV
                blocks.append(Bottleneck(channels, width, 2 if i > 0 and block == 0 else 1, conv=made))
                channels = width * Bottleneck.expansion
            self.layers.append(nn.Sequential(*blocks))
        self.channels = tuple(width * Bottleneck.expansion for width in planes[1:])
        kaiming_normal(self)

    def forward(self, images):
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in self.layers:
            x = stage(x)
            maps.append(x)
        return maps[1:]


def conv_leaky(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, batch normalisation, leaky ReLU of slope 0.1."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), LeakyReLU(0.1))


class DarknetBlock(nn.Module):
    """1x1 convolution to half the width, 3x3 convolution back, shortcut.  (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = conv_leaky(channels, channels // 2, 1)
        self.conv2 = conv_leaky(channels // 2, channels, 3)

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


class YOLACTDarknet(nn.Module):
    """Darknet's maps C3 to C5; its stages are ``layers.0`` to ``layers.4``.

    Args:
        depths: bottlenecks of the five stages.
        widths: channels of the first convolution and of the stages.

    Inputs: (N, 3, H, W).
    Returns: three maps (N, C_i, H / 8, W / 8) and so on, rounded up.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)):
        super().__init__()
        self.preconv = conv_leaky(3, widths[0], 3)
        self.layers = nn.ModuleList()
        for depth, before, width in zip(depths, widths[:-1], widths[1:], strict=True):
            blocks = (DarknetBlock(width) for _ in range(depth))
            self.layers.append(nn.Sequential(conv_leaky(before, width, 3, 2), *blocks))
        self.channels = tuple(widths[3:])

    def forward(self, images):
        x, maps = self.preconv(images), []
        for stage in self.layers:
            x = stage(x)
            maps.append(x)
        return maps[2:]


class YOLACTFPN(nn.Module):
    """Lateral convolutions, bilinear addition from the top down, 3x3 convolutions with ReLU, and two extra levels.

    Args:
        in_channels: channels of the maps, fine to coarse.
        out_channels: channels of the levels.

    Inputs: list of three maps (N, C_i, H_i, W_i), fine to coarse.
    Returns: list of levels (N, out_channels, H_i, W_i), two more than maps.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int):
        super().__init__()
        coarse_first = in_channels[::-1]  # mirror: reversed
        self.lat_layers = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in coarse_first)
        self.pred_layers = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 1, 1) for _ in coarse_first)
        self.downsample_layers = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, 2, 1) for _ in range(2))

    def forward(self, maps):
        levels, x = [], None
        for lateral, predict, finer in zip(self.lat_layers, self.pred_layers, reversed(maps)):
            y = lateral(finer)
            x = y if x is None else y + resize_bilinear(x, map_size(finer))
            levels.insert(0, F.relu(predict(x)))
        for downsample in self.downsample_layers:
            levels.append(downsample(levels[-1]))
        return levels


class PredictionModule(nn.Module):
    """Boxes, classes and coefficients of the priors of a level.

    Args:
        channels: channels of the level.
        num_classes: classes K, without background.
        num_priors: priors per cell.
        prototypes: coefficients E per prior.

    Inputs: (N, C, H, W).
    Returns: (N, H W A, 4), (N, H W A, K + 1), (N, H W A, E).
    """

    def __init__(self, channels: int, num_classes: int, num_priors: int, prototypes: int):
        super().__init__()
        self.upfeature = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU())
        self.bbox_layer = nn.Conv2d(channels, num_priors * 4, 3, 1, 1)
        self.conf_layer = nn.Conv2d(channels, num_priors * (num_classes + 1), 3, 1, 1)
        self.mask_layer = nn.Conv2d(channels, num_priors * prototypes, 3, 1, 1)
        self.num_priors = num_priors

    def forward(self, x):
        x = self.upfeature(x)
        found = self.bbox_layer(x), self.conf_layer(x), torch.tanh(self.mask_layer(x))
        count = x.shape[2] * x.shape[3] * self.num_priors
        return [y.permute(0, 2, 3, 1).reshape(x.shape[0], count, -1) for y in found]


class YOLACT(nn.Module):
    """Backbone, pyramid, prototypes, predictions.

    Args:
        backbone: returns C3 to C5, and has their ``channels``.
        num_classes: classes K, without background.
        out_channels: channels of the levels.
        prototypes: prototypes E.
        num_priors: priors per cell.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"loc"`` (N, P, 4) deltas, ``"conf"`` (N, P, K + 1) logits, 0 is background, ``"mask"`` (N, P, E)
        coefficients, of all priors, see :func:`priors`; ``"proto"`` (N, 2 h, 2 w, E) prototypes; ``"segm"``
        (N, K, h, w) pixel logits, for training.
    """

    def __init__(
        self,
        backbone,
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
        num_priors: int = len(RATIOS),
    ):
        super().__init__()
        self.backbone = backbone
        self.proto_net = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
            nn.ReLU(),
            Upsample(),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(out_channels, prototypes, 1),
        )
        self.fpn = YOLACTFPN(backbone.channels, out_channels)
        self.prediction_layers = nn.ModuleList([PredictionModule(out_channels, num_classes, num_priors, prototypes)])
        self.semantic_seg_conv = nn.Conv2d(out_channels, num_classes, 1)
        for part in (self.proto_net, self.fpn, self.prediction_layers, self.semantic_seg_conv):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)

    def forward(self, images):
        levels = self.fpn(self.backbone(images))
        found = zip(*(self.prediction_layers[0](x) for x in levels))
        boxes, classes, coefficients = (torch.cat(parts, 1) for parts in found)
        return {
            "loc": boxes,
            "conf": classes,
            "mask": coefficients,
            "proto": F.relu(self.proto_net(levels[0])).permute(0, 2, 3, 1),
            "segm": self.semantic_seg_conv(levels[0]),
        }


def priors(size: tuple[int, int], scales, max_size: int, square: bool) -> np.ndarray:
    """The priors of all levels: in every cell, for each size, one for each ratio of width and height.

    Args:
        size: height and width of P3; every further level is half as large, rounded up.
        scales: sizes of every level's priors, in pixels, one or several per level.
        max_size: height and width of the images that the scales are meant for.
        square: whether priors are as high as wide whatever the ratio, an error of the reference that its weights rely
            on.

    Returns:
        (P, 4) xyxy, where the image is the square from 0 to 1.
    """
    found = []
    for scale in scales:
        height, width = size
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        centre = np.stack([x, y], -1)[:, :, None]  # (h, w, 1, 2)
        sizes = np.atleast_1d(scale)[:, None] / max_size
        wide = (sizes * np.sqrt(RATIOS)).reshape(-1)
        high = wide if square else (sizes / np.sqrt(RATIOS)).reshape(-1)
        half = np.stack([wide, high], -1) / 2
        found.append(np.concatenate([centre - half, centre + half], -1).reshape(-1, 4))
        size = (-(-height // 2), -(-width // 2))
    return np.concatenate(found)


def match_priors(iou, valid):
    """Assign to every prior the object that overlaps it most, after every object got its own prior.

    The pair of object and prior with the largest overlap is taken, then the best of the rest, and so on.

    Args:
        iou: (N, M, P) overlaps of objects and priors.
        valid: (N, M) bool, False for padding.

    Returns:
        best: (N, P) overlap with the object; 2 for the priors that objects got.
        index: (N, P) int64, the object.
    """
    iou = torch.where(valid[..., None], iou, -1.0)
    best, index = iou.amax(1), argmax(iou, 1)
    count, places = iou.shape[1:]
    slots, place = torch.arange(count, device=iou.device), torch.arange(places, device=iou.device)
    for _ in range(count):
        largest = iou.amax(2)
        row = argmax(largest, 1)[:, None]  # (N, 1)
        column = take_rows(argmax(iou, 2), row)
        left = take_rows(largest, row) >= 0
        taken = (place == column) & left  # (N, P)
        best, index = torch.where(taken, 2.0, best), torch.where(taken, row, index)
        used = (slots == row)[..., None] | (place == column)[:, None]
        iou = torch.where(used & left[..., None], -1.0, iou)
    return best, index


def cut_masks(masks, boxes):
    """Masks (N, Q, h, w), 0 outside boxes (N, Q, 4) and a border of one cell around them.

    Boxes are xyxy, where the image is the square from 0 to 1; their corners may be in any order.
    """
    height, width = masks.shape[2:]
    corners = boxes * torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    low = (torch.minimum(corners[..., :2], corners[..., 2:]) - 1)[..., None, None]
    high = (torch.maximum(corners[..., :2], corners[..., 2:]) + 1)[..., None, None]
    x, y = (torch.arange(n, device=masks.device).to(masks.dtype) for n in (width, height))
    y = y[:, None]
    inside = (x >= low[:, :, 0]) & (x < high[:, :, 0]) & (y >= low[:, :, 1]) & (y < high[:, :, 1])
    return torch.where(inside, masks, 0.0)


def cut_log(x):
    """Logarithm of numbers in [0, 1], at least -100; its slope is at most 1e12, as in PyTorch's cross-entropy."""
    value = x.detach()
    found = torch.clamp(torch.log(torch.where(value > 0, value, 1.0)), min=LEAST_LOG)
    return torch.where(value > 0, found, LEAST_LOG) + (x - value) / torch.clamp(value, min=1 / LARGEST_SLOPE)


def resized_masks(masks, size: tuple[int, int]):
    """Masks (N, M, H, W) at another height and width, bilinear."""
    return resize_bilinear(masks, size)


def assembled(proto, coefficients):
    """Masks (N, Q, h, w) from prototypes (N, h, w, E) and coefficients (N, Q, E)."""
    masks = torch.sigmoid(coefficients @ proto.flatten(1, 2).mT)
    return masks.unflatten(2, tuple(proto.shape[1:3]))


class YOLACTCriterion(nn.Module):
    """Losses of boxes, of classes with the hardest negatives, of masks inside their boxes, of the classes of pixels.

    Args:
        scales, max_size, square: of the priors, see :func:`priors`.
        max_masks: priors per image whose masks count, the first ones; the loss is scaled up for the others.
        threshold, background: a prior with an overlap below the first belongs to no object; it is background below the
            second, ignored in between.
        crowd_threshold: also ignored is background of which a larger share lies in a crowd.
        negatives: background priors that count per matched prior of an image.
        box_weight, mask_weight: of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0 on, ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width, ``"crowd"`` (N, M) bool, many objects in
        one box, ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"B"`` of boxes, ``"M"`` of masks, ``"C"`` of classes, ``"S"`` of pixels, ``"total"``.
    """

    def __init__(
        self,
        scales: tuple = SCALES,
        max_size: int = 550,
        square: bool = True,
        max_masks: int = 100,
        threshold: float = 0.5,
        background: float = 0.4,
        crowd_threshold: float = 0.7,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
    ):
        super().__init__()
        self.scales, self.max_size, self.square, self.max_masks = tuple(scales), max_size, square, max_masks
        self.threshold, self.background, self.crowd_threshold = threshold, background, crowd_threshold
        self.negatives, self.box_weight, self.mask_weight = negatives, box_weight, mask_weight
        self.coder = DeltaCoder(STDS)

    def forward(self, outputs, targets):
        logits, masks = outputs["conf"], targets["masks"].to(outputs["conf"].dtype)
        height, width = masks.shape[2:]
        size = torch.tensor([width, height, width, height], dtype=logits.dtype, device=logits.device)
        boxes = targets["boxes"].to(logits.dtype) / size
        anchors = priors(map_size(outputs["segm"]), self.scales, self.max_size, self.square)
        anchors = torch.from_numpy(anchors).to(logits)
        valid, crowd = targets["valid"] & ~targets["crowd"], targets["valid"] & targets["crowd"]

        best, index = match_priors(pairwise_iou(boxes, anchors), valid)  # (N, P)
        foreground, background = best >= self.threshold, best < self.background
        covered = pairwise_iou(anchors.expand(boxes.shape[0], -1, -1), boxes, mode="iof")
        covered = torch.where(crowd[:, None], covered, -1.0).amax(2)
        background = background & ~(covered > self.crowd_threshold)
        number = foreground.sum(1)  # (N,)
        count = number.sum().clamp(min=1).to(logits.dtype)

        # a prior without an object is its own target: finite, and masked
        wanted = torch.where(foreground[..., None], take_rows(boxes, index), anchors)
        losses = smooth_l1_loss(outputs["loc"], self.coder.encode(wanted, anchors))
        regression = self.box_weight * torch.where(foreground, losses, 0.0).sum() / count

        labels = torch.where(foreground, take_rows(targets["labels"], index) + 1, 0)
        losses = -F.log_softmax(logits, -1).gather(2, labels[..., None])[..., 0]  # (N, P)
        hardest, _ = top_k(torch.where(background, losses, -1.0), losses.shape[1])
        rank = torch.arange(losses.shape[1], device=losses.device)
        allowed = torch.clamp(self.negatives * number, max=losses.shape[1] - 1)[:, None]
        negative = torch.where((rank < allowed) & (hardest >= 0), hardest, 0.0).sum()
        classification = (torch.where(foreground, losses, 0.0).sum() + negative) / count

        mask = self.mask_weight * self.of_masks(outputs, masks, boxes, index, foreground) / count
        places = self.of_places(outputs["segm"], masks, targets["labels"], valid)
        return {
            "B": regression,
            "M": mask,
            "C": classification,
            "S": places,
            "total": regression + mask + classification + places,
        }

    def of_masks(self, outputs, masks, boxes, index, foreground):
        """Sum of the cross-entropies of the first matched priors' masks, each over the area of its object's box."""
        cells, present = first_positives(foreground, self.max_masks)
        height, width = outputs["proto"].shape[1:3]
        owner = take_rows(index, cells)
        small = (resized_masks(masks, (height, width)) > 0.5).to(masks.dtype)
        wanted, boxes = take_rows(small.flatten(2), owner), take_rows(boxes, owner)
        found = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), boxes).flatten(2)
        losses = -(wanted * cut_log(found) + (1 - wanted) * cut_log(1 - found)).sum(2)
        area = ((boxes[..., 2:] - boxes[..., :2]) * torch.tensor([width, height], device=boxes.device)).prod(-1)
        losses = torch.where(present, losses / torch.where(present, area, 1.0), 0.0).sum(1)
        share = foreground.sum(1).to(losses.dtype) / torch.clamp(present.sum(1), min=1)
        return (losses * share).sum()

    @staticmethod
    def of_places(logits, masks, labels, valid):
        """Cross-entropy of the classes of pixels against the objects' masks, averaged over an image."""
        size = map_size(logits)
        small = (resized_masks(masks, size) > 0.5) & valid[..., None, None]  # (N, M, h, w)
        every = torch.arange(logits.shape[1], device=logits.device)[:, None]
        present = (labels[:, None] == every).to(masks.dtype)  # (N, K, M)
        wanted = (present @ small.to(masks.dtype).flatten(2) > 0).to(logits.dtype)
        losses = binary_cross_entropy(logits.flatten(2), wanted).sum((1, 2)) / (size[0] * size[1])
        return losses.mean()


def fast_nms(boxes, scores, iou_threshold: float, candidates: int):
    """Suppression within each class by all better boxes, those that are suppressed themselves included.

    Args:
        boxes: (N, P, 4) xyxy.
        scores: (N, K, P); those below 0 take no part.
        iou_threshold: boxes overlap if their IoU is larger.
        candidates: boxes considered per class, C.

    Returns:
        scores: (N, K, C) descending, -1 for suppressed ones.
        index: (N, K, C) int64, the boxes.

    Source: dbolya/yolact ``layers/functions/detection.py``.
    """
    classes = scores.shape[1]
    scores, index = top_k(scores, min(candidates, scores.shape[2]))
    chosen = take_rows(boxes, index.flatten(1)).unflatten(1, (classes, -1))
    overlap = pairwise_iou(chosen, chosen).triu(1).amax(2)  # (N, K, C)
    return torch.where(overlap <= iou_threshold, scores, -1.0), index


def best_detections(
    outputs, anchors, score_threshold: float, iou_threshold: float, candidates: int, detections: int
) -> dict:
    """The best boxes after fast suppression, and their masks among the prototypes.

    Args:
        outputs: of :class:`YOLACT`.
        anchors: (P, 4) xyxy, see :func:`priors`.
        score_threshold, iou_threshold, candidates, detections: see :class:`YOLACTPostProcess`.

    Returns:
        dict: ``"masks"`` (N, D, h, w) probabilities, 0 outside the boxes; ``"boxes"`` (N, D, 4) xyxy, where the
        image is the square from 0 to 1; ``"scores"`` (N, D) descending; ``"labels"`` (N, D) int64; ``"valid"`` (N, D).
    """
    scores = outputs["conf"].softmax(-1)[..., 1:]  # (N, P, K)
    boxes = DeltaCoder(STDS).decode(outputs["loc"], torch.from_numpy(anchors).to(scores))
    scores = torch.where((scores.amax(-1) > score_threshold)[..., None], scores, -1.0)
    scores, index = fast_nms(boxes, scores.transpose(1, 2), iou_threshold, candidates)
    each = scores.shape[2]
    scores, order = top_k(scores.flatten(1), min(detections, scores.shape[1] * each))
    labels, index = torch.div(order, each, rounding_mode="floor"), take_rows(index.flatten(1), order)
    boxes = take_rows(boxes, index)
    masks = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], index)), boxes)
    return {"masks": masks, "boxes": boxes, "scores": scores, "labels": labels, "valid": scores > 0}


def drawn_detections(found, size, threshold: float) -> dict:
    """The detections of :func:`best_detections` in pixels of an image of the height and width ``size``."""
    height, width = (int(n) for n in size)
    boxes, valid = found["boxes"], found["valid"]
    size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    boxes = torch.cat([torch.clamp(low, min=0) * size, torch.clamp(high, max=1) * size], -1)
    return {
        "masks": (resized_masks(found["masks"], (height, width)) > threshold) & valid[..., None, None],
        "boxes": torch.where(valid[..., None], boxes, 0.0),
        "scores": torch.where(valid, found["scores"], 0.0),
        "labels": torch.where(valid, found["labels"], 0),
        "valid": valid,
    }


class YOLACTPostProcess(nn.Module):
    """The best boxes after fast suppression, and their masks.

    Args:
        scales, max_size, square: of the priors, see :func:`priors`.
        score_threshold: priors whose best class has at most this probability are dropped.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        candidates: boxes considered per class.
        detections: results per image, D.
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64 from 0 on, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        scales: tuple = SCALES,
        max_size: int = 550,
        square: bool = True,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
        mask_threshold: float = 0.5,
    ):
        super().__init__()
        self.scales, self.max_size, self.square = tuple(scales), max_size, square
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.candidates, self.detections, self.mask_threshold = candidates, detections, mask_threshold

    def forward(self, outputs, input_size):
        anchors = priors(map_size(outputs["segm"]), self.scales, self.max_size, self.square)
        found = best_detections(
            outputs, anchors, self.score_threshold, self.iou_threshold, self.candidates, self.detections
        )
        return drawn_detections(found, input_size, self.mask_threshold)


def yolact_base(layers=(3, 4, 23, 3), planes=(64, 128, 256, 512), **options) -> YOLACT:
    return YOLACT(YOLACTResNet(layers, planes), **options)


def yolact_resnet50(layers=(3, 4, 6, 3), **options) -> YOLACT:
    return yolact_base(layers=layers, **options)


def yolact_darknet53(depths=(1, 2, 8, 8, 4), widths=(32, 64, 128, 256, 512, 1024), **options) -> YOLACT:
    return YOLACT(YOLACTDarknet(depths, widths), **options)


def yolact_im400(**options) -> YOLACT:
    return yolact_base(**options)


def yolact_im700(**options) -> YOLACT:
    return yolact_base(**options)


def yolact_resnet50_pascal(num_classes: int = 20, **options) -> YOLACT:
    return yolact_resnet50(num_classes=num_classes, **options)


def yolact_im400_criterion(**options) -> YOLACTCriterion:
    """The losses for images of 400 x 400."""
    return YOLACTCriterion(**{**IM400, **options})


def yolact_im400_postprocess(**options) -> YOLACTPostProcess:
    """The results for images of 400 x 400."""
    return YOLACTPostProcess(**{**IM400, **options})


def yolact_im700_criterion(**options) -> YOLACTCriterion:
    """The losses for images of 700 x 700, of more masks."""
    return YOLACTCriterion(**{**IM700, "max_masks": 300, **options})


def yolact_im700_postprocess(**options) -> YOLACTPostProcess:
    """The results for images of 700 x 700."""
    return YOLACTPostProcess(**{**IM700, **options})


def yolact_pascal_criterion(**options) -> YOLACTCriterion:
    """The losses with larger priors, which are not square."""
    return YOLACTCriterion(**{**PASCAL, **options})


def yolact_pascal_postprocess(**options) -> YOLACTPostProcess:
    """The results with larger priors, which are not square."""
    return YOLACTPostProcess(**{**PASCAL, **options})
