"""mmdet's YOLACT: other coarse levels, priors that are not square, and background as the last class.

"YOLACT: Real-time Instance Segmentation", 2019, arXiv:1904.02689.
Parameter names: mmdet ``dense_heads/yolact_head.py``, ``necks/fpn.py`` (Apache-2.0).
What to look at: the levels have no ReLU, and P6 comes from C5; of several objects with one best prior the last gets it.
The classes of pixels are one less than the objects', an error of the reference that its weights rely on.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where maps become rows of priors without being transposed.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.assignment import IGNORED, assign_max_iou
from torch_impl.boxes.coders import DeltaCoder
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import first_positives
from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import anchor_rows, take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.necks.fpn import FPN, level_names
from torch_impl.segmentation.unet import Upsample
from torch_impl.segmentation.yolact import (
    STDS,
    assembled,
    cut_log,
    cut_masks,
    drawn_detections,
    fast_nms,
    resized_masks,
)

__all__ = [
    "BilinearFPN",
    "MMDetYOLACT",
    "MMDetYOLACTCriterion",
    "MMDetYOLACTPostProcess",
    "YOLACTHead",
    "YOLACTMaskHead",
    "yolact_r50_mmdet",
]

SIZES = (24, 48, 96, 192, 384)  # of the priors of P3 to P7, in pixels
STRIDES = tuple(550 / cells for cells in (69, 35, 18, 9, 5))
RATIOS = (0.5, 1.0, 2.0)  # height / width


class BilinearFPN(FPN):
    """:class:`FPN` of five levels that enlarges by bilinear interpolation; P6 and P7 from the last map, without ReLU.

    Args:
        in_channels, out_channels: as there.

    Inputs, returns: as for :class:`FPN`.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256):
        super().__init__(in_channels, out_channels, extra="on_input")

    def forward(self, maps):
        maps = [maps[name] for name in self.used]
        sums = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + resize_bilinear(sums[i], map_size(sums[i - 1]))
        levels, x = [conv(x) for conv, x in zip(self.fpn_convs, sums)], maps[-1]
        for conv in self.fpn_convs[len(sums) :]:
            x = conv(x)
            levels.append(x)
        return dict(zip(level_names(self.used, len(levels)), levels))


class YOLACTHead(nn.Module):
    """Classes, boxes and coefficients of all priors, by convolutions that the levels share.

    Args:
        channels: channels of the levels.
        num_classes: classes K, without background.
        prototypes: coefficients E per prior.

    Inputs: dict of levels (N, C, H, W).
    Returns: (N, P, 4), (N, P, K + 1), (N, P, E).
    """

    def __init__(self, channels: int, num_classes: int, prototypes: int):
        super().__init__()
        self.columns = (num_classes + 1, prototypes)
        self.head_convs = nn.ModuleList([ConvModule(channels, channels, 3, 1, 1)])
        self.conv_cls = nn.Conv2d(channels, len(RATIOS) * (num_classes + 1), 3, 1, 1)
        self.conv_reg = nn.Conv2d(channels, len(RATIOS) * 4, 3, 1, 1)
        self.conv_coeff = nn.Conv2d(channels, len(RATIOS) * prototypes, 3, 1, 1)
        xavier(self)

    def forward(self, maps):
        boxes, classes, coefficients = [], [], []
        for x in maps.values():
            x = self.head_convs[0](x)
            boxes.append(anchor_rows(self.conv_reg(x), 4))  # mirror: transposed
            classes.append(anchor_rows(self.conv_cls(x), self.columns[0]))
            coefficients.append(anchor_rows(torch.tanh(self.conv_coeff(x)), self.columns[1]))
        return [torch.cat(parts, 1) for parts in (boxes, classes, coefficients)]


class SegmentationModule(nn.Module):
    """Classes of pixels, by a 1x1 convolution.  (N, C, H, W) -> (N, K, H, W) logits."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.segm_conv = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        return self.segm_conv(x)


class YOLACTMaskHead(nn.Module):
    """Prototypes, and classes of pixels for training.

    Args:
        channels: channels of the level.
        num_classes: classes K, without background.
        prototypes: prototypes E.

    Inputs: (N, C, H, W).
    Returns: (N, 2 H, 2 W, E) prototypes, (N, K, H, W) logits.
    """

    def __init__(self, channels: int, num_classes: int, prototypes: int):
        super().__init__()
        self.segm_branch = SegmentationModule(channels, num_classes)
        self.protonet = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            Upsample(),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(channels, prototypes, 1),
            nn.ReLU(),
        )
        xavier(self)

    def forward(self, x):
        return self.protonet(x).permute(0, 2, 3, 1), self.segm_branch(x)


def xavier(module: nn.Module) -> None:
    """Glorot's uniform values for every convolution of a module, biases zero."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)


class MMDetYOLACT(nn.Module):
    """Residual network, pyramid, head, prototypes.

    Args:
        layers, planes: of the residual network, see :class:`ResNet`.
        num_classes: classes K, without background.
        out_channels: channels of the levels.
        prototypes: prototypes E.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"loc"`` (N, P, 4) deltas, ``"conf"`` (N, P, K + 1) logits, the last is background, ``"mask"``
        (N, P, E) coefficients, of all priors, see :func:`level_priors`; ``"proto"`` (N, 2 h, 2 w, E) prototypes;
        ``"segm"`` (N, K, h, w) pixel logits, for training.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
    ):
        super().__init__()
        self.backbone = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(2, 3, 4))
        self.neck = BilinearFPN(self.backbone.channels, out_channels)
        self.bbox_head = YOLACTHead(out_channels, num_classes, prototypes)
        self.mask_head = YOLACTMaskHead(out_channels, num_classes, prototypes)

    def forward(self, images):
        levels = self.neck(self.backbone(images))
        boxes, classes, coefficients = self.bbox_head(levels)
        proto, places = self.mask_head(levels["p3"])
        return {"loc": boxes, "conf": classes, "mask": coefficients, "proto": proto, "segm": places}


def level_priors(size: tuple[int, int]) -> list[np.ndarray]:
    """The priors of every level, (P_l, 4) xyxy in pixels: their distance does not depend on the image's size.

    Args:
        size: height and width of P3; every further level is half as large, rounded up.
    """
    found = []
    for side, stride in zip(SIZES, STRIDES):
        found.append(grid_anchors(cell_anchors((side,), RATIOS), size, (stride, stride), 0.5))
        size = tuple(-(-n // 2) for n in size)
    return found


class MMDetYOLACTCriterion(nn.Module):
    """Losses of boxes, of classes with the hardest negatives, of masks inside their boxes, of the classes of pixels.

    Args:
        max_masks: priors per image whose masks count, the first ones.
        positive, negative: of the assignment, see :func:`assign_max_iou`; also, every object gets the prior that it
            overlaps most, the last of several objects.
        negatives: background priors that count per matched prior of an image; all if there are none.
        box_weight, mask_weight: of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0 on, ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width, ``"valid"`` (N, M) bool, False for
        padding. Boxes without area take no part.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_mask"``, ``"loss_segm"``, ``"total"``.
    """

    def __init__(
        self,
        max_masks: int = 100,
        positive: float = 0.5,
        negative: float = 0.4,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
    ):
        super().__init__()
        self.max_masks, self.positive, self.negative, self.negatives = max_masks, positive, negative, negatives
        self.box_weight, self.mask_weight, self.coder = box_weight, mask_weight, DeltaCoder(STDS)

    def forward(self, outputs, targets):
        logits, masks = outputs["conf"], targets["masks"].to(outputs["conf"].dtype)
        boxes, labels = targets["boxes"].to(logits.dtype), targets["labels"]
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        anchors = torch.from_numpy(np.concatenate(level_priors(map_size(outputs["segm"])))).to(logits)
        matched = self.assign(pairwise_iou(boxes, anchors), valid)  # (N, P)
        foreground = matched >= 0
        number = foreground.sum(1)  # (N,)
        count = number.clamp(min=1).sum().to(logits.dtype)

        # a prior without an object is its own target: finite, and masked
        wanted = torch.where(foreground[..., None], take_rows(boxes, matched), anchors)
        losses = smooth_l1_loss(outputs["loc"], self.coder.encode(wanted, anchors))
        regression = self.box_weight * torch.where(foreground, losses, 0.0).sum() / count

        wanted = torch.where(foreground, take_rows(labels, matched), logits.shape[2] - 1)
        losses = -F.log_softmax(logits, -1).gather(2, wanted[..., None])[..., 0]
        hardest, _ = top_k(torch.where(foreground | (matched == IGNORED), -1.0, losses), losses.shape[1])
        rank = torch.arange(losses.shape[1], device=losses.device)
        allowed = torch.where(number > 0, self.negatives * number, losses.shape[1])[:, None]
        hardest = torch.where((rank < allowed) & (hardest >= 0), hardest, 0.0).sum()
        classification = (torch.where(foreground, losses, 0.0).sum() + hardest) / count

        found = {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_mask": self.mask_weight * self.of_masks(outputs, masks, boxes, matched),
            "loss_segm": self.of_places(outputs["segm"], masks, labels, valid),
        }
        return {**found, "total": sum(found.values())}

    def assign(self, iou, valid):
        """(N, P) int64: the object of every prior, or see :func:`assign_max_iou`.  iou: (N, M, P)."""
        slots, place = (torch.arange(n, device=iou.device) for n in iou.shape[1:])
        best = place == argmax(iou, 2)[..., None]  # (N, M, P)
        forced = torch.where(best & valid[..., None], slots[:, None], -1).amax(1)
        return torch.where(forced >= 0, forced, assign_max_iou(iou, valid, self.positive, self.negative, None))

    def of_masks(self, outputs, masks, boxes, matched):
        """Mean of the cross-entropies of the first matched priors' masks, each over the area of its object's box."""
        cells, present = first_positives(matched >= 0, self.max_masks)
        height, width = outputs["proto"].shape[1:3]
        owner = take_rows(matched, cells)
        small = (resized_masks(masks, (height, width)) > 0.5).to(masks.dtype)
        wanted, boxes = take_rows(small.flatten(2), owner), take_rows(boxes, owner)
        pixels = torch.tensor([masks.shape[3], masks.shape[2]], dtype=boxes.dtype, device=boxes.device)
        boxes = boxes / pixels.repeat(2)
        found = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), boxes).flatten(2)
        losses = -(wanted * cut_log(found) + (1 - wanted) * cut_log(1 - found)).mean(2)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        losses = torch.where(present, losses / torch.where(present, area, 1.0), 0.0)
        return losses.sum() / present.sum().clamp(min=1).to(losses.dtype)

    @staticmethod
    def of_places(logits, masks, labels, valid):
        """Cross-entropy of the classes of pixels, one less than the objects', over the pixels of all images.

        Images without objects take no part.
        """
        count, classes, height, width = logits.shape
        small = (resized_masks(masks, (height, width)) > 0.5) & valid[..., None, None]  # (N, M, h, w)
        every = torch.arange(classes, device=logits.device)[:, None]
        present = ((labels[:, None] + classes - 1) % classes == every).to(masks.dtype)  # (N, K, M)
        wanted = (present @ small.to(masks.dtype).flatten(2) > 0).to(logits.dtype)
        losses = binary_cross_entropy(logits.flatten(2), wanted).sum((1, 2))
        return torch.where(valid.any(1), losses, 0.0).sum() / (count * height * width)


class MMDetYOLACTPostProcess(nn.Module):
    """The best boxes after fast suppression, and their masks.

    Args:
        score_threshold: boxes of at most this probability are dropped.
        level_candidates: priors considered per level, those with the best classes.
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
        score_threshold: float = 0.05,
        level_candidates: int = 1000,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
        mask_threshold: float = 0.5,
    ):
        super().__init__()
        self.score_threshold, self.level_candidates = score_threshold, level_candidates
        self.iou_threshold, self.candidates = iou_threshold, candidates
        self.detections, self.mask_threshold, self.coder = detections, mask_threshold, DeltaCoder(STDS, "both")

    def forward(self, outputs, input_size):
        levels, start, chosen = level_priors(map_size(outputs["segm"])), 0, []
        scores = F.softmax(outputs["conf"], -1)[..., :-1]  # (N, P, K)
        for of_level in levels:
            best = scores[:, start : start + len(of_level)].amax(-1)
            chosen.append(top_k(best, min(self.level_candidates, len(of_level)))[1] + start)
            start += len(of_level)
        chosen = torch.cat(chosen, 1)
        anchors = torch.from_numpy(np.concatenate(levels)).to(scores)[chosen]
        height, width = (int(n) for n in input_size)
        size = torch.tensor([width, height] * 2, dtype=scores.dtype, device=scores.device)
        boxes = torch.clamp(self.coder.decode(take_rows(outputs["loc"], chosen), anchors) / size, min=0.0, max=1.0)
        scores = take_rows(scores, chosen).transpose(1, 2)
        scores, index = fast_nms(boxes, scores, self.iou_threshold, self.candidates)
        classes, each = scores.shape[1:]
        scores = torch.where(scores > self.score_threshold, scores, -1.0).flatten(1)
        scores, order = top_k(scores, min(self.detections, classes * each))
        labels, index = torch.div(order, each, rounding_mode="floor"), take_rows(index.flatten(1), order)
        boxes, coefficients = take_rows(boxes, index), take_rows(outputs["mask"], take_rows(chosen, index))
        masks = cut_masks(assembled(outputs["proto"], coefficients), boxes)
        found = {"masks": masks, "boxes": boxes, "scores": scores, "labels": labels, "valid": scores > 0}
        return drawn_detections(found, input_size, self.mask_threshold)


def yolact_r50_mmdet(layers=(3, 4, 6, 3), **options) -> MMDetYOLACT:
    return MMDetYOLACT(layers, **options)
