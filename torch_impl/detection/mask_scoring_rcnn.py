"""Mask Scoring R-CNN: Mask R-CNN that predicts the IoU of each of its masks.

"Mask Scoring R-CNN", 2019, arXiv:1903.00241.
Parameter names: mmdet ``mask_heads/maskiou_head.py``, ``roi_heads/mask_scoring_roi_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow, which transposes the input of the first linear layer: its weights are for NCHW.
- Initial values are given to the layers in Keras, filled in afterwards in PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.detection._masks import SHARE, MaskCriterion, MaskPostProcess
from torch_impl.detection._two_stage import of_class
from torch_impl.detection.faster_rcnn import TwoStageDetector, pyramid_detector
from torch_impl.detection.mask_rcnn import StandardMaskRoIHead
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax
from torch_impl.rois.masks import mask_targets

__all__ = [
    "MaskIoUHead",
    "MaskScoringCriterion",
    "MaskScoringPostProcess",
    "MaskScoringRoIHead",
    "mask_iou_targets",
    "ms_rcnn_r50_caffe_fpn",
    "ms_rcnn_r50_fpn",
    "ms_rcnn_r101_caffe_fpn",
    "ms_rcnn_x101_32x4d_fpn",
]

EPS = 1e-7  # of an object's area, as in the reference
LOGIT = 0.5  # NOTE: the reference compares logits with its threshold of probabilities
WEIGHT = 0.5  # of the loss


class MaskIoUHead(nn.Module):
    """The IoU of a mask with its object, for every class.

    Args:
        in_channels, channels: of the features, and of the convolutions.
        num_classes: classes K.
        units: width of the linear layers.

    Inputs: features (R, C, 14, 14), probabilities (R, 1, 28, 28).
    Returns: (R, K).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, units: int = 1024):
        super().__init__()
        widths = (in_channels + 1, channels, channels, channels)
        self.convs = nn.ModuleList(nn.Conv2d(c, channels, 3, 1 + (i == 3), 1) for i, c in enumerate(widths))
        self.fcs = nn.ModuleList([nn.Linear(channels * 7**2, units), nn.Linear(units, units)])
        self.fc_mask_iou = nn.Linear(units, num_classes)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for layer in self.fcs:
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.fc_mask_iou.weight, std=0.01)
        for layer in (*self.convs, *self.fcs, self.fc_mask_iou):
            nn.init.zeros_(layer.bias)  # mirror: filled in afterwards

    def forward(self, features, masks):
        x = torch.cat([features, F.max_pool2d(masks, 2, 2)], 1)
        for conv in self.convs:
            x = F.relu(conv(x))
        x = x.flatten(1)  # mirror: transposes
        for layer in self.fcs:
            x = F.relu(layer(x))
        return self.fc_mask_iou(x)


def mask_iou_targets(logits, proposals, matched, masks):
    """The IoU of every mask with its whole object, of which the proposal may contain only a part.

    Args:
        logits: (N, P, S, S) of the masks inside the proposals.
        proposals: (N, P, 4) xyxy in pixels.
        matched: (N, P), see :func:`sample_rois`.
        masks: (N, M, H, W), 0 or 1.

    Returns:
        (N, P) in [0, 1]; 0 where there is no object.
    """
    height, width = masks.shape[2:]
    wanted = mask_targets(proposals, matched, masks, logits.shape[3], True)
    masks = masks.to(logits.dtype)
    corners = proposals.detach().to(torch.int64).to(logits.dtype)  # rounded down to whole pixels
    limit = torch.tensor([width, height, width, height], dtype=corners.dtype, device=corners.device)
    x1, y1, x2, y2 = torch.minimum(torch.clamp(corners, min=0.0), limit).unbind(-1)
    rows, columns = _inside(y1, y2, height), _inside(x1, x2, width)  # (N, P, H), (N, P, W)
    areas = ((rows[:, None] @ masks) * columns[:, None]).sum(-1)  # (N, M, P)
    areas = of_class(areas.transpose(1, 2), matched)
    share = areas / (take_rows(masks.sum((2, 3)), matched) + EPS)
    whole = wanted.sum((2, 3)) / (share + EPS)
    found = (logits.detach() > LOGIT).to(logits.dtype)
    overlap = (found * wanted).sum((2, 3))
    union = found.sum((2, 3)) + whole - overlap
    iou = torch.where(union > 0, overlap, 0.0) / torch.where(union > 0, union, 1.0)
    return torch.where(matched >= 0, iou, 0.0)


def _inside(start, end, length):
    """1 for the pixels of a side, at least one.  (N, P) -> (N, P, length)."""
    pixel = torch.arange(length, device=start.device).to(start)
    start, extent = start[..., None], torch.clamp(end - start, min=1.0)[..., None]
    return ((pixel >= start) & (pixel < start + extent)).to(start.dtype)


class MaskScoringRoIHead(StandardMaskRoIHead):
    """The second stage with masks and their scores.

    Args:
        in_channels, num_classes, units, samples, mask_channels, pairs, detections: see :class:`StandardMaskRoIHead`.

    Returns: as for :class:`StandardMaskRoIHead`, and ``"mask_ious"``, (N, P) for the masks of the first proposals, with
        targets, (N, P) for those of the most probable class of given proposals, or (N, D) for those of the best boxes.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_channels: int = 256,
        pairs: int = 4096,
        detections: int = 100,
    ):
        few = {"samples": samples, "pairs": pairs, "detections": detections}
        super().__init__(in_channels, num_classes, units, mask_channels=mask_channels, **few)
        self.mask_iou_head = MaskIoUHead(in_channels, mask_channels, num_classes, units)

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().forward(maps, proposals, image_size, targets, given)
        logits = found["mask_logits"]
        if targets is not None:
            boxes = found["proposals"][:, : int(self.samples * SHARE)]
            labels = take_rows(targets["labels"], found["matched"][:, : boxes.shape[1]])
        elif given:
            boxes, labels = found["proposals"], argmax(found["class_logits"][..., :-1])
            logits = of_class(logits, labels)
        else:
            boxes, labels = found["boxes"], found["labels"]
        masks = torch.sigmoid(logits)
        masks = masks.reshape(-1, 1, *masks.shape[2:])
        ious = self.mask_iou_head(self.mask_roi_extractor(maps, boxes), masks)
        return {**found, "mask_ious": of_class(ious.reshape(-1, boxes.shape[1], ious.shape[-1]), labels)}


class MaskScoringCriterion(MaskCriterion):
    """The losses of Mask R-CNN, and the squared error of the masks' IoU where it is above 0.

    Args:
        samples: anchors per image that the losses are computed from.

    Inputs: as for :class:`MaskCriterion`.
    Returns: as for :class:`MaskCriterion`, and ``"loss_mask_iou"``.
    """

    def __init__(self, samples: int = 256):
        super().__init__("mmdet", samples=samples)

    def box_losses(self, outputs, targets):
        losses = super().box_losses(outputs, targets)
        count = outputs["mask_ious"].shape[1]
        rows = outputs["proposals"][:, :count], outputs["matched"][:, :count], targets["masks"]
        wanted = mask_iou_targets(outputs["mask_logits"], *rows)
        counted = (wanted > 0).to(wanted.dtype)
        errors = (counted * (outputs["mask_ious"] - wanted).square()).sum()
        return {**losses, "loss_mask_iou": WEIGHT * errors / torch.clamp(counted.sum(), min=1.0)}


class MaskScoringPostProcess(MaskPostProcess):
    """The best boxes with their masks, and the scores of these.

    Inputs: ``outputs`` of the model.
    Returns: as for :class:`MaskPostProcess`, and ``"mask_scores"`` (N, D): score of the box times IoU of the mask.
    """

    def forward(self, outputs):
        scores = torch.where(outputs["valid"], outputs["scores"] * outputs["mask_ious"], 0.0)
        return {**super().forward(outputs), "mask_scores": scores}


def ms_rcnn_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = MaskScoringRoIHead(out_channels, num_classes, units, samples, mask_channels, pairs, detections)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def ms_rcnn_r50_caffe_fpn(stride_in_1x1: bool = True, **options) -> TwoStageDetector:
    return ms_rcnn_r50_fpn(stride_in_1x1=stride_in_1x1, **options)


def ms_rcnn_r101_caffe_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return ms_rcnn_r50_caffe_fpn(layers=layers, **options)


def ms_rcnn_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return ms_rcnn_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
