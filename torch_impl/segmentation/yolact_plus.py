"""YOLACT++: YOLACT with deformable convolutions, more priors, and a small network that predicts how good a mask is.

"YOLACT++: Better Real-time Instance Segmentation", 2019, arXiv:1912.06218. Parameter names: dbolya/yolact
``yolact.py``, ``backbone.py`` (MIT). What to look at: the network that estimates the masks' IoU only sees the masks
assembled from the prototypes, and its loss trains these.

Mirror notes:
- NCHW here, NHWC in TensorFlow: masks become images with a channel axis in front here, at the end there.
"""

import functools

import torch
from torch import nn

from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import first_positives
from torch_impl.layers.deform_conv import deform_conv2d
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.segmentation.yolact import (
    RATIOS,
    SCALES,
    YOLACT,
    YOLACTCriterion,
    YOLACTResNet,
    assembled,
    best_detections,
    cut_masks,
    drawn_detections,
    match_priors,
    priors,
    resized_masks,
)

__all__ = [
    "DCN",
    "MaskIoUNet",
    "YOLACTPlus",
    "YOLACTPlusCriterion",
    "YOLACTPlusPostProcess",
    "yolact_plus_base",
    "yolact_plus_resnet50",
]

SIZES = tuple(tuple(scale * 2 ** (third / 3) for third in range(3)) for scale in SCALES)  # priors of every level


class DCN(nn.Module):
    """Deformable convolution v2 with the first implementation's name for its offsets and masks.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as of a convolution.
        groups: 1.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, h, w).
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        taps = kernel_size * kernel_size
        bound = (in_channels * taps) ** -0.5
        kernel = torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(kernel.uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 3 * taps, kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)
        self.window = stride, padding, dilation

    def forward(self, x):
        found = self.conv_offset_mask(x)
        split = found.shape[1] // 3 * 2  # two thirds are offsets, one third is the mask
        mask = torch.sigmoid(found[:, split:])
        return deform_conv2d(x, found[:, :split], self.weight, self.bias, *self.window, mask)


class MaskIoUNet(nn.Module):
    """The IoU of a mask with its object, for every class, from the mask alone.

    Args:
        num_classes: classes K.
        channels: of the convolutions, each of which halves the mask.

    Inputs: (R, 1, h, w) probabilities.
    Returns: (R, K), 0 or more.
    """

    def __init__(self, num_classes: int, channels: tuple[int, ...] = (8, 16, 32, 64, 128)):
        super().__init__()
        layers = []
        for before, width in zip((1, *channels), channels):
            layers += [nn.Conv2d(before, width, 3, 2), nn.ReLU()]
        self.maskiou_net = nn.Sequential(*layers, nn.Conv2d(channels[-1], num_classes, 1), nn.ReLU())
        for layer in self.maskiou_net[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.maskiou_net(x).amax((2, 3))


class YOLACTPlus(YOLACT):
    """YOLACT whose masks get their own scores.

    Args:
        backbone, num_classes, out_channels, prototypes, num_priors: of :class:`YOLACT`.
        iou_channels: see :class:`MaskIoUNet`.
        scales, max_size, square: of the priors, see :func:`priors`.
        max_masks, threshold: see :class:`YOLACTCriterion`.
        score_threshold, iou_threshold, candidates, detections: see :class:`YOLACTPostProcess`.

    Inputs: (N, 3, H, W) float, normalised; ``targets`` of the criterion.
    Returns: dict of :class:`YOLACT`, and of the best detections: ``"masks"`` (N, D, 2 h, 2 w), ``"boxes"``,
        ``"scores"``, ``"labels"``, ``"valid"``, see :func:`best_detections`, and ``"mask_ious"`` (N, D). With targets,
        instead of these, of the first matched priors: ``"masks"`` (N, Q, 2 h, 2 w), ``"matched"`` (N, Q) int64, the
        object or -1, its ``"labels"`` (N, Q), ``"mask_ious"`` (N, Q); and ``"positives"`` (N,) int64, how many there
        are.
    """

    def __init__(
        self,
        backbone,
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
        num_priors: int = len(RATIOS) * len(SIZES[0]),
        iou_channels: tuple[int, ...] = (8, 16, 32, 64, 128),
        scales: tuple = SIZES,
        max_size: int = 550,
        square: bool = False,
        max_masks: int = 100,
        threshold: float = 0.5,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
    ):
        super().__init__(backbone, num_classes, out_channels, prototypes, num_priors)
        self.maskiou_net = MaskIoUNet(num_classes, iou_channels)
        self.priors = functools.partial(priors, scales=scales, max_size=max_size, square=square)
        self.max_masks, self.threshold = max_masks, threshold
        self.limits = score_threshold, iou_threshold, candidates, detections

    def forward(self, images, targets=None):
        outputs = super().forward(images)
        anchors = self.priors(map_size(outputs["segm"]))
        if targets is None:
            found = best_detections(outputs, anchors, *self.limits)
        else:
            found = self.match(outputs, anchors, targets)
        masks = found["masks"]
        ious = self.maskiou_net(masks.flatten(0, 1)[:, None]).unflatten(0, tuple(masks.shape[:2]))  # mirror: in front
        return {**outputs, **found, "mask_ious": ious.gather(2, found["labels"][..., None])[..., 0]}

    def match(self, outputs, anchors, targets) -> dict:
        """The masks of the first matched priors, cropped by the boxes of their objects."""
        logits = outputs["conf"]
        height, width = targets["masks"].shape[2:]
        boxes = targets["boxes"].to(logits.dtype)
        boxes = boxes / torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        iou = pairwise_iou(boxes, torch.from_numpy(anchors).to(logits))
        best, index = match_priors(iou, targets["valid"] & ~targets["crowd"])
        foreground = best >= self.threshold
        cells, present = first_positives(foreground, self.max_masks)
        owner = take_rows(index, cells)
        masks = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), take_rows(boxes, owner))
        return {
            "masks": masks,
            "labels": take_rows(targets["labels"], owner),
            "matched": torch.where(present, owner, -1),
            "positives": foreground.sum(1),
        }


class YOLACTPlusCriterion(YOLACTCriterion):
    """The losses of YOLACT, and that of the masks' estimated IoU.

    Args:
        scales, max_size, square, max_masks, threshold, background, crowd_threshold, negatives, box_weight, mask_weight:
            of :class:`YOLACTCriterion`; the first five as in the model.
        iou_weight: of the new loss.
        least_area: only masks whose object covers more cells of the prototypes than this count.

    Inputs: as for :class:`YOLACTCriterion`; ``outputs`` with targets.
    Returns: as for :class:`YOLACTCriterion`, and ``"I"``.
    """

    def __init__(
        self,
        scales: tuple = SIZES,
        max_size: int = 550,
        square: bool = False,
        max_masks: int = 100,
        threshold: float = 0.5,
        background: float = 0.4,
        crowd_threshold: float = 0.7,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        iou_weight: float = 25.0,
        least_area: int = 25,
    ):
        matching = threshold, background, crowd_threshold, negatives
        super().__init__(scales, max_size, square, max_masks, *matching, box_weight, mask_weight)
        self.iou_weight, self.least_area = iou_weight, least_area

    def forward(self, outputs, targets):
        losses, matched = super().forward(outputs, targets), outputs["matched"]
        masks = targets["masks"].to(outputs["masks"].dtype)
        small = (resized_masks(masks, map_size(outputs["masks"])) > 0.5).to(masks.dtype)
        wanted = take_rows(small.flatten(2), torch.clamp(matched, min=0))  # (N, Q, h w)
        found, area = (outputs["masks"].detach() > 0.5).to(masks.dtype).flatten(2), wanted.sum(2)
        overlap = (found * wanted).sum(2)
        counted = (matched >= 0) & (area > self.least_area)
        iou = overlap / torch.where(counted, found.sum(2) + area - overlap, 1.0)
        errors = smooth_l1_loss(outputs["mask_ious"][..., None], iou[..., None])
        count = outputs["positives"].sum().clamp(min=1).to(masks.dtype)
        loss = self.iou_weight * torch.where(counted, errors, 0.0).sum() / count
        return {**losses, "I": loss, "total": losses["total"] + loss}


class YOLACTPlusPostProcess(nn.Module):
    """The detections in pixels of the image, with the scores of their masks.

    Args:
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: as for :class:`YOLACTPostProcess`, and ``"mask_scores"`` (N, D): score times IoU of the mask.
    """

    def __init__(self, mask_threshold: float = 0.5):
        super().__init__()
        self.mask_threshold = mask_threshold

    def forward(self, outputs, input_size):
        found = drawn_detections(outputs, input_size, self.mask_threshold)
        return {**found, "mask_scores": found["scores"] * outputs["mask_ious"]}


def yolact_plus_base(layers=(3, 4, 23, 3), planes=(64, 128, 256, 512), interval: int = 3, **options) -> YOLACTPlus:
    return YOLACTPlus(YOLACTResNet(layers, planes, DCN, interval), **options)


def yolact_plus_resnet50(layers=(3, 4, 6, 3), interval: int = 1, **options) -> YOLACTPlus:
    return yolact_plus_base(layers=layers, interval=interval, **options)
