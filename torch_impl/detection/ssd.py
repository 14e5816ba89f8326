"""SSD: classes and boxes of default boxes around the cells of six maps, trained with hard negatives.

"SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325; SSDLite: "MobileNetV2", 2018, arXiv:1801.04381, section
6.2, on "Searching for MobileNetV3", 2019, arXiv:1905.02244.
Parameter names: torchvision ``detection/ssd.py``, ``detection/ssdlite.py`` (BSD-3). Class 0 is the background.
What to look at: the losses of the background are sorted by size, and only the largest count.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the heads' maps are transposed before they become rows of boxes, there not.
- A slice of ``nn.Sequential`` keeps its layers' numbers; Keras counts from 0 again, with a layer that does nothing.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.assignment import assign_max_iou
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.default_boxes import default_boxes
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.classification.mobilenet_v3 import mobilenet_v3_large
from torch_impl.classification.vgg import vgg16
from torch_impl.layers.initialization import normal
from torch_impl.layers.nms import nms
from torch_impl.layers.pooling import MaxPool2d
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import smooth_l1_loss

__all__ = [
    "SSD",
    "SSDVGG",
    "SSDCriterion",
    "SSDHead",
    "SSDLiteHead",
    "SSDLiteMobileNet",
    "SSDPostProcess",
    "ssd300_vgg16",
    "ssd512_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "ssdlite_postprocess",
]

STDS = (0.1, 0.1, 0.2, 0.2)  # of the coder
# squeezed width, width, kernel size, stride, padding of the pairs of convolutions after the trunk (figure 2)
EXTRAS_300 = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
EXTRAS_512 = (
    (256, 512, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 4, 1, 1),
)
LITE_NORM = {"eps": 1e-3, "momentum": 0.03}


def box_rows(x, channels: int):  # mirror: transposed
    """(N, A * channels, H, W), the box outermost -> (N, H * W * A, channels)."""
    n, _, h, w = x.shape
    return x.reshape(n, -1, channels, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, channels)


def xavier(module) -> None:
    """Glorot's uniform values for every convolution of a module, biases zero."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)


def normalised(x):
    """Every pixel's channels divided by their norm.  (N, C, H, W) -> the same shape."""
    square = x.square().sum(1, keepdim=True)
    positive = square > 1e-24  # the root has no gradient at 0; torchvision's smallest norm is 1e-12
    return x / torch.where(positive, torch.sqrt(torch.where(positive, square, 1.0)), 1e-12)


class SSDVGG(nn.Module):
    """VGG-16 with its classifier as convolutions, and pairs of convolutions that halve the map.

    Args:
        depths, widths: of the five stages of :func:`vgg16`.
        hidden: width of the two convolutions that replace the classifier.
        extras: squeezed width, width, kernel size, stride, padding of every pair that follows.

    Inputs: (N, 3, H, W) float.
    Returns: list of maps: the last of stride 8, every pixel of length 1 times a learned scale; the last of stride 16;
        one per pair.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 3, 3, 3),
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        hidden: int = 1024,
        extras: tuple[tuple, ...] = EXTRAS_300,
    ):
        super().__init__()
        layers = list(vgg16(depths, widths=widths, features_only=True).features)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, MaxPool2d)]
        layers[pools[2]] = MaxPool2d(2, ceil_mode=True)
        self.scale_weight = nn.Parameter(torch.full((widths[3],), 20.0))
        self.features = nn.ModuleList(layers[: pools[3]])
        classifier = nn.Sequential(
            MaxPool2d(3, 1, 1),
            nn.Conv2d(widths[4], hidden, 3, padding=6, dilation=6),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
        )
        pairs, channels = [], hidden
        for squeezed, width, kernel_size, stride, padding in extras:
            convs = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, width, kernel_size, stride, padding)
            pairs.append(nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU()))
            channels = width
        for part in (classifier, *pairs):
            xavier(part)
        self.extra = nn.ModuleList([nn.Sequential(*layers[pools[3] : pools[4]], classifier), *pairs])
        self.channels = (widths[3], hidden, *(row[1] for row in extras))

    def forward(self, images):
        x = images
        for layer in self.features:
            x = layer(x)
        maps = [self.scale_weight[:, None, None] * normalised(x)]
        for part in self.extra:
            x = part(x)
            maps.append(x)
        return maps


def conv_bn_relu6(in_channels: int, out_channels: int, kernel_size=1, stride=1, groups=1):
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, **LITE_NORM),
        nn.ReLU6(),
    )


class SSDLiteMobileNet(nn.Module):
    """MobileNetV3 with half the channels in its last stage, and depthwise pairs that halve the map.

    Args:
        width: multiplier of the network's channels.
        extras: widths of the pairs that follow.

    Inputs: (N, 3, H, W) float.
    Returns: list of maps: the expansion before the last halving, at stride 16; the last map, at stride 32; one per
        pair.
    """

    def __init__(self, width: float = 1.0, extras: tuple[int, ...] = (512, 256, 256, 128)):
        super().__init__()
        network = mobilenet_v3_large(reduced_tail=True, width=width)
        blocks, cut = list(network.features), network.stage_ends[3] + 1  # of these, the last block that halves the map
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = LITE_NORM["momentum"]
        expansion, rest = blocks[cut].block[0], blocks[cut].block[1:]  # mirror: keeps its layers' numbers
        self.features = nn.ModuleList(
            [nn.Sequential(*blocks[:cut], expansion), nn.Sequential(rest, *blocks[cut + 1 :])]
        )
        channels = [expansion[0].out_channels, blocks[-1][0].out_channels]
        pairs = []
        for out in extras:
            squeezed = out // 2
            pairs.append(
                nn.Sequential(
                    conv_bn_relu6(channels[-1], squeezed),
                    conv_bn_relu6(squeezed, squeezed, 3, 2, squeezed),
                    conv_bn_relu6(squeezed, out),
                )
            )
            channels.append(out)
        self.extra = nn.ModuleList(pairs)
        self.channels = tuple(channels)
        normal(self, 0.03)

    def forward(self, images):
        x, maps = images, []
        for part in (*self.features, *self.extra):
            x = part(x)
            maps.append(x)
        return maps


class SSDPredictions(nn.Module):
    """One layer per map, with its results as rows.  List of (N, C, H, W) -> (N, sum of H * W * A, columns)."""

    def __init__(self, layers, columns: int):
        super().__init__()
        self.module_list, self.columns = nn.ModuleList(layers), columns

    def forward(self, maps):
        return torch.cat([box_rows(layer(x), self.columns) for layer, x in zip(self.module_list, maps)], 1)


class SSDHead(nn.Module):
    """Class logits and box deltas of every default box, by 3x3 convolutions.

    Args:
        channels: of the maps.
        num_boxes: default boxes A of a cell, by map.
        num_classes: classes K.

    Inputs: list of maps (N, C, H, W).
    Returns: class logits (N, sum of H * W * A, K), box deltas (N, sum of H * W * A, 4).
    """

    def __init__(self, channels: tuple[int, ...], num_boxes: tuple[int, ...], num_classes: int):
        super().__init__()

        def layers(columns):
            return [nn.Conv2d(c, a * columns, 3, padding=1) for c, a in zip(channels, num_boxes, strict=True)]

        self.classification_head = SSDPredictions(layers(num_classes), num_classes)
        self.regression_head = SSDPredictions(layers(4), 4)
        xavier(self)

    def forward(self, maps):
        return self.classification_head(maps), self.regression_head(maps)


class SSDLiteHead(nn.Module):
    """The same by 3x3 depthwise and 1x1 convolutions.

    Args: those of :class:`SSDHead`.

    Inputs and returns: as there.
    """

    def __init__(self, channels: tuple[int, ...], num_boxes: tuple[int, ...], num_classes: int):
        super().__init__()

        def layers(columns):
            return [
                nn.Sequential(conv_bn_relu6(c, c, 3, 1, c), nn.Conv2d(c, a * columns, 1))
                for c, a in zip(channels, num_boxes, strict=True)
            ]

        self.classification_head = SSDPredictions(layers(num_classes), num_classes)
        self.regression_head = SSDPredictions(layers(4), 4)
        normal(self, 0.03)

    def forward(self, maps):
        return self.classification_head(maps), self.regression_head(maps)


class SSD(nn.Module):
    """Trunk, head, default boxes.

    Args:
        backbone: returns a list of maps, and has their ``channels``.
        head: makes the head from channels, boxes per cell and classes.
        num_classes: classes K, including the background (0).
        ratios, scales, steps, clip: see :func:`default_boxes`.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas, ``"anchors"`` (A, 4) xyxy in
        pixels, the default boxes; ``"image_size"`` (2,) int64, H and W.
    """

    def __init__(
        self,
        backbone,
        head,
        num_classes: int,
        ratios: tuple[tuple[float, ...], ...],
        scales: tuple[float, ...],
        steps: tuple[float, ...] | None = None,
        clip: bool = True,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head(backbone.channels, tuple(2 + 2 * len(of_map) for of_map in ratios), num_classes)
        self.boxes = functools.partial(default_boxes, scales=scales, ratios=ratios, steps=steps, clip=clip)

    def forward(self, images):
        maps = self.backbone(images)
        logits, deltas = self.head(maps)
        size = map_size(images)
        return {
            "cls_logits": logits,
            "bbox_regression": deltas,
            "anchors": torch.from_numpy(self.boxes(size, [map_size(x) for x in maps])).to(images),
            "image_size": torch.tensor(size, device=images.device),
        }


class SSDCriterion(nn.Module):
    """Cross-entropy of the matched boxes and of the hardest others, smooth L1 loss of the deltas.

    A default box is matched with the object that it overlaps most, if by at least ``threshold``; every object gets its
    best box whatever the overlap, and the last of several objects wins.

    Args:
        threshold: as above.
        negatives: background boxes that count per matched box of an image.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        1 on, ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"bbox_regression"``, ``"classification"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.5, negatives: int = 3):
        super().__init__()
        self.threshold, self.negatives, self.coder = threshold, negatives, DeltaCoder(STDS)

    def forward(self, outputs, targets):
        logits, deltas, anchors = outputs["cls_logits"], outputs["bbox_regression"], outputs["anchors"]
        boxes = targets["boxes"].to(logits.dtype)
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        iou = pairwise_iou(boxes, anchors)  # (N, M, A)
        slots = torch.arange(boxes.shape[1], device=boxes.device)[:, None]
        best = torch.arange(len(anchors), device=boxes.device) == argmax(iou, 2)[..., None]
        forced = torch.where(best & valid[..., None], slots, -1).amax(1)  # (N, A)
        matched = torch.where(forced >= 0, forced, assign_max_iou(iou, valid, self.threshold, self.threshold, None))
        foreground = matched >= 0
        number = foreground.sum(1)  # (N,)
        count = number.sum().clamp(min=1).to(logits.dtype)

        # a box without an object is its own target: finite, and masked
        wanted = torch.where(foreground[..., None], take_rows(boxes, matched), anchors)
        losses = smooth_l1_loss(deltas, self.coder.encode(wanted, anchors))
        regression = torch.where(foreground, losses, 0.0).sum() / count

        labels = torch.where(foreground, take_rows(targets["labels"], matched), 0)
        losses = -F.log_softmax(logits, -1).gather(2, labels[..., None])[..., 0]  # (N, A)
        hardest, _ = top_k(torch.where(foreground, -1.0, losses), losses.shape[1])
        rank = torch.arange(losses.shape[1], device=losses.device)
        counted = (rank < self.negatives * number[:, None]) & (hardest >= 0)
        positive = torch.where(foreground, losses, 0.0).sum()
        classification = (positive + torch.where(counted, hardest, 0.0).sum()) / count
        return {
            "bbox_regression": regression,
            "classification": classification,
            "total": regression + classification,
        }


class SSDPostProcess(nn.Module):
    """The best boxes of every image: the best candidates of each class, NMS among them, the best of all classes.

    Args:
        score_threshold: boxes of at most this probability of a class are dropped.
        candidates: boxes kept per class.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.01,
        candidates: int = 400,
        iou_threshold: float = 0.45,
        detections: int = 200,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.coder = iou_threshold, detections, DeltaCoder(STDS)

    def forward(self, outputs):
        logits, anchors = outputs["cls_logits"], outputs["anchors"]
        classes, count = logits.shape[2] - 1, min(self.candidates, logits.shape[1])
        scores = F.softmax(logits, -1)[..., 1:].transpose(1, 2)  # (N, K - 1, A)
        scores, index = (x.flatten(0, 1) for x in top_k(scores, count))  # (N (K - 1), candidates)
        boxes = clip_boxes(self.coder.decode(outputs["bbox_regression"], anchors), outputs["image_size"])
        boxes = take_rows(boxes, index.reshape(-1, classes * count)).reshape(-1, count, 4)
        most = min(self.detections, count)
        index, valid = nms(boxes, scores, self.iou_threshold, most, self.score_threshold)  # class by class
        scores = torch.where(valid, take_rows(scores, index), -1.0).reshape(-1, classes * most)
        boxes = take_rows(boxes, index).reshape(-1, classes * most, 4)
        scores, index = top_k(scores, min(self.detections, classes * most))
        valid = scores >= 0
        padding = (0, self.detections - scores.shape[1])
        return {
            "boxes": F.pad(torch.where(valid[..., None], take_rows(boxes, index), 0.0), (0, 0, *padding)),
            "scores": F.pad(torch.where(valid, scores, 0.0), padding),
            "labels": F.pad(torch.where(valid, torch.div(index, most, rounding_mode="floor") + 1, 0), padding),
            "valid": F.pad(valid, padding),
        }


def ssdlite_postprocess(**options) -> SSDPostProcess:
    """The results of SSDLite."""
    own = {"score_threshold": 0.001, "candidates": 300, "iou_threshold": 0.55, "detections": 300}
    return SSDPostProcess(**{**own, **options})


def ssd300_vgg16(
    num_classes: int = 91,
    extras: tuple[tuple, ...] = EXTRAS_300,
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    scales: tuple[float, ...] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300),
    clip: bool = True,
    **options,
) -> SSD:
    return SSD(SSDVGG(extras=extras, **options), SSDHead, num_classes, ratios, scales, steps, clip)


def ssd512_vgg16(
    extras: tuple[tuple, ...] = EXTRAS_512,
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    scales: tuple[float, ...] = tuple(size / 512 for size in (20, 51, 133, 215, 296, 378, 460, 542)),
    steps: tuple[float, ...] = (8, 16, 32, 64, 128, 256, 512),
    clip: bool = False,
    **options,
) -> SSD:
    return ssd300_vgg16(extras=extras, ratios=ratios, scales=scales, steps=steps, clip=clip, **options)


def ssdlite320_mobilenet_v3_large(
    num_classes: int = 91,
    ratios: tuple[tuple[float, ...], ...] = ((2, 3),) * 6,
    scales: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
    **options,
) -> SSD:
    return SSD(SSDLiteMobileNet(**options), SSDLiteHead, num_classes, ratios, scales)
