"""FCIS: for every bin of a proposal, and every class, scores of being inside and outside an object.

"Fully Convolutional Instance-aware Semantic Segmentation", 2016, arXiv:1611.07709. Parameter names: msracver/FCIS
``fcis/symbols/resnet_v1_101_fcis.py`` (MIT), MXNet's with PyTorch's last parts. What to look at: the larger of the two
scores decides whether there is an object, their softmax where it is, so one score map serves both.

Boxes are xyxy in pixels, the right and lower border excluded; the reference includes its last pixel.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.anchors import grid_anchors
from torch_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from torch_impl.boxes.coders import DeltaCoder
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.sampling import has_area, sample
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.normalization import FrozenBatchNorm2d
from torch_impl.layers.ps_roi_pool import ps_roi_pool
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.segmentation._instances import boxes_of_masks

__all__ = [
    "FCIS",
    "FCISCriterion",
    "FCISPostProcess",
    "fcis_anchors",
    "fcis_resnet101",
    "fcis_resnet101_voc",
    "hard_rois",
    "roi_masks",
    "voted_masks",
]

STRIDE = 16
BASE = 16  # pixels, size of the anchor of scale 1
RATIOS = (0.5, 1.0, 2.0)  # height / width
SCALES = (4, 8, 16, 32)
STDS = (0.2, 0.2, 0.5, 0.5)
MASK = 0.4  # share from which on a pixel belongs to a mask
VOTER = 0.5  # IoU from which on a proposal votes on the mask of a box
ANCHORS, ROIS = 256, 128  # that an image's losses are computed from
MASK_WEIGHT = 10.0
LEAST_PROPOSAL, LEAST_DETECTION = 2.0, 2.0  # pixels


def fcis_anchors(size: tuple[int, int]) -> np.ndarray:
    """The anchors of a map (H * W * 12, 4): whole pixels, all scales of the first ratio, then those of the second."""
    width = np.round(np.sqrt(BASE * BASE / np.array(RATIOS)))
    sides = np.stack([width, np.round(width * RATIOS)], -1)[:, None] * np.array(SCALES)[:, None]  # (3, 4, 2)
    half = sides.reshape(-1, 2) / 2
    cell = np.concatenate([BASE / 2 - half, BASE / 2 + half], -1)
    return grid_anchors(cell, size, (STRIDE, STRIDE))


def cut_boxes(boxes, size: tuple[int, int]):
    """Boxes (N, B, 4) clipped to the image, at least one pixel each."""
    limit = torch.tensor(size[::-1], dtype=boxes.dtype, device=boxes.device)
    low = torch.minimum(torch.clamp(boxes[..., :2], min=0.0), limit - 1)
    return torch.cat([low, torch.minimum(torch.clamp(boxes[..., 2:], min=1.0), limit)], -1)


def scores_conv(in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> nn.Conv2d:
    """A convolution with small initial values."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class FCIS(nn.Module):
    """Trunk, proposals, score maps, and the scores of proposals.

    Args:
        num_classes: classes K, without background.
        layers, width: blocks of the four stages, channels of the stem.
        rpn_channels, channels: of the convolutions before the proposals and before the scores.
        group_size, pooled_size: parts and bins of a box, see :func:`ps_roi_pool`.
        candidates, proposals: boxes before and after the suppression.
        iou_threshold: proposals overlap if their IoU is larger.

    Inputs: (N, 3, H, W) float; ``targets`` of the criterion.
    Returns: dict: ``"objectness"`` (N, A, 2) logits, 0 is background, ``"anchor_deltas"`` (N, A, 4), ``"anchors"``
        (A, 4), ``"image_size"`` (2,) int64; ``"proposals"`` (N, P, 4), rows without area are padding,
        ``"class_logits"`` (N, P, K + 1), ``"mask_logits"`` (N, P, 2, S, S), outside and inside, ``"box_deltas"`` (N, P,
        4), ``"labels"`` (N, P) int64, 0 is background, whose mask it is. With targets, P are the proposals and the
        objects, the labels theirs, and ``"matched"`` (N, P) says which object it is; otherwise, P are the proposals and
        their corrections, and the labels the most probable foreground classes.
    """

    def __init__(
        self,
        num_classes: int = 80,
        layers: tuple[int, ...] = (3, 4, 23, 3),
        width: int = 64,
        rpn_channels: int = 512,
        channels: int = 1024,
        group_size: int = 7,
        pooled_size: int = 21,
        candidates: int = 6000,
        proposals: int = 300,
        iou_threshold: float = 0.7,
    ):
        super().__init__()
        self.depths, self.num_classes = tuple(layers), num_classes
        self.group_size, self.pooled_size = group_size, pooled_size
        self.candidates, self.proposals, self.iou_threshold = candidates, proposals, iou_threshold
        self.rpn_coder, self.coder = DeltaCoder(), DeltaCoder(STDS)
        self.conv1, self.bn_conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), FrozenBatchNorm2d(width)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        before = width
        for stage, name, first in self.blocks():
            planes = width * 2 ** (stage - 2)
            stride, dilation = (2 if first and stage in (3, 4) else 1), (2 if stage == 5 else 1)
            if first:
                self.add_unit(f"{name}_branch1", before, 4 * planes, 1, stride)
            self.add_unit(f"{name}_branch2a", before, planes, 1, stride)
            self.add_unit(f"{name}_branch2b", planes, planes, 3, 1, dilation)
            self.add_unit(f"{name}_branch2c", planes, 4 * planes, 1, 1)
            before = 4 * planes
        anchors, parts = len(RATIOS) * len(SCALES), group_size * group_size
        self.rpn_conv_3x3 = scores_conv(before // 2, rpn_channels, 3, 1)
        self.rpn_cls_score = scores_conv(rpn_channels, 2 * anchors, 1)
        self.rpn_bbox_pred = scores_conv(rpn_channels, 4 * anchors, 1)
        self.conv_new_1 = scores_conv(before, channels, 1)
        self.fcis_cls_seg = scores_conv(channels, 2 * (num_classes + 1) * parts, 1)
        self.fcis_bbox = scores_conv(channels, 2 * 4 * parts, 1)

    def blocks(self):
        """Stage, name and whether it is the first of its stage, of every block."""
        for stage, depth in enumerate(self.depths, start=2):
            long = stage in (3, 4)
            names = ["a", *(f"b{i}" if long else "bcdef"[i - 1] for i in range(1, depth))]
            yield from ((stage, f"{stage}{name}", name == "a") for name in names)

    def add_unit(self, name: str, in_channels: int, channels: int, kernel: int, stride: int, dilation: int = 1):
        """A convolution with its normalisation."""
        padding = dilation * (kernel // 2)
        conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False)
        self.add_module(f"res{name}", conv)
        self.add_module(f"bn{name}", FrozenBatchNorm2d(channels))

    def unit(self, name: str, x):
        return getattr(self, f"bn{name}")(getattr(self, f"res{name}")(x))

    def trunk(self, images):
        """The maps of strides 16, of the third and of the fourth stage."""
        x, maps = self.pool1(F.relu(self.bn_conv1(self.conv1(images)))), {}
        for stage, name, first in self.blocks():
            shortcut = self.unit(f"{name}_branch1", x) if first else x
            y = F.relu(self.unit(f"{name}_branch2a", x))
            y = F.relu(self.unit(f"{name}_branch2b", y))
            x = maps[stage] = F.relu(shortcut + self.unit(f"{name}_branch2c", y))
        return maps[4], maps[5]

    def forward(self, images, targets=None):
        size = map_size(images)
        middle, last = self.trunk(images)
        found, proposals = self.propose(middle, size)
        x = F.relu(self.conv_new_1(last))
        scores, boxes = self.fcis_cls_seg(x), self.fcis_bbox(x)
        if targets is not None:
            objects = targets["boxes"].to(proposals.dtype)
            present = targets["valid"] & has_area(objects)
            proposals = torch.cat([proposals, torch.where(present[..., None], objects, 0.0)], 1)
            matched = assign_max_iou(pairwise_iou(objects, proposals), present, 0.5, 0.5, None)
            matched = torch.where(has_area(proposals), matched, IGNORED)
            labels = torch.where(matched >= 0, take_rows(targets["labels"], matched) + 1, 0)
            return {**found, "matched": matched, **self.classify(scores, boxes, proposals, labels)}
        first = self.classify(scores, boxes, proposals)
        corrected = cut_boxes(self.coder.decode(first["box_deltas"], proposals), size)
        corrected = torch.where(has_area(proposals)[..., None], corrected, 0.0).detach()
        second = self.classify(scores, boxes, corrected)
        return {**found, **{key: torch.cat([first[key], second[key]], 1) for key in first}}

    def propose(self, x, size: tuple[int, int]):
        """The first stage's outputs, and the proposals (N, P, 4)."""
        hidden = F.relu(self.rpn_conv_3x3(x))
        logits = self.rpn_cls_score(hidden).unflatten(1, (2, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
        deltas = self.rpn_bbox_pred(hidden).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        anchors = torch.from_numpy(fcis_anchors(map_size(x))).to(x)
        scores = torch.softmax(logits.detach(), -1)[..., 1]
        boxes = cut_boxes(self.rpn_coder.decode(deltas.detach(), anchors), size)
        valid = (boxes[..., 2:] - boxes[..., :2] >= LEAST_PROPOSAL).all(-1)
        scores, index = top_k(torch.where(valid, scores, -1.0), min(self.candidates, scores.shape[1]))
        boxes = take_rows(boxes, index)
        index, valid = batched_nms(boxes, scores, index * 0, scores > 0, self.iou_threshold, self.proposals)
        whole = torch.tensor(size, device=x.device)
        found = {"objectness": logits, "anchor_deltas": deltas, "anchors": anchors, "image_size": whole}
        return found, torch.where(valid[..., None], take_rows(boxes, index), 0.0)

    def classify(self, scores, boxes, proposals, labels=None) -> dict:
        """Scores of proposals (N, P, 4); without labels, masks of the most probable foreground classes."""
        grid = self.group_size, self.pooled_size, STRIDE
        pooled = ps_roi_pool(scores, proposals, *grid).unflatten(2, (-1, 2))  # (N, P, K + 1, 2, S, S)
        logits = pooled.amax(3).mean((3, 4))
        labels = argmax(logits[..., 1:]) + 1 if labels is None else labels
        index = labels[..., None, None, None, None].expand(-1, -1, 1, *pooled.shape[3:])
        deltas = ps_roi_pool(boxes, proposals, *grid).mean((3, 4))
        return {
            "proposals": proposals,
            "class_logits": logits,
            "mask_logits": pooled.gather(2, index)[:, :, 0],
            "box_deltas": deltas[..., 4:],  # those of the foreground
            "labels": labels,
        }


def _lines(start, end, length: int, cells: int):
    """Weight of every pixel of a line in each cell that a span of it is resized to.

    Args:
        start, end: (N, P) integers, ``end`` above ``start``.

    Returns:
        (N, P, cells, length).
    """
    extent = (end - start)[..., None]
    cell = torch.arange(cells, device=start.device).to(start)
    place = torch.minimum(torch.clamp((cell + 0.5) * extent / cells - 0.5, min=0.0), extent - 1)
    pixel = torch.arange(length, device=start.device).to(start)
    return torch.clamp(1 - (start[..., None, None] + place[..., None] - pixel).abs(), min=0.0)


def roi_masks(proposals, matched, masks, cells: int):
    """The parts of objects' masks that lie in proposals, resized bilinearly; 1 from 0.4 on.

    Args:
        proposals: (N, P, 4).
        matched: (N, P) int64, the object; negative for any.
        masks: (N, M, H, W), 0 or 1.
        cells: height and width of the result, S.

    Returns:
        (N, P, S, S), 0 or 1.
    """
    height, width = masks.shape[2:]
    x1, y1, x2, y2 = torch.floor(proposals.detach() + 0.5).unbind(-1)
    rows = _lines(y1, torch.maximum(y2, y1 + 1), height, cells)
    columns = _lines(x1, torch.maximum(x2, x1 + 1), width, cells)
    slots = torch.arange(masks.shape[1], device=masks.device)
    owner = (matched[..., None] == slots).to(rows.dtype)  # (N, P, M)
    every = rows[:, :, None] @ masks.to(rows.dtype)[:, None] @ columns[:, :, None].mT  # (N, P, M, S, S)
    return ((every * owner[..., None, None]).sum(2) >= MASK).to(rows.dtype)


def hard_rois(class_logits, mask_logits, deltas, labels, masks, wanted, positive, used, count: int) -> dict:
    """Losses of every image's hardest proposals.

    Args:
        class_logits, mask_logits, deltas: (N, P, K + 1), (N, P, 2, S, S), (N, P, 4).
        labels: (N, P) int64, 0 is background.
        masks: (N, P, S, S), 0 or 1; wanted: (N, P, 4) deltas, for the positive ones.
        positive, used: (N, P) bool, which are objects, and which are proposals at all.
        count: proposals of an image.

    Returns:
        dict: ``"cls"`` (N,) mean, ``"seg"``, ``"bbox"`` (N,) sums over the chosen ones by ``count``; ``"total"``
        (N, P), the losses that decide.
    """
    entropy = -torch.log_softmax(class_logits, -1).gather(2, labels[..., None])[..., 0]
    log_p = torch.log_softmax(mask_logits, 2)
    pixels = -torch.where(masks > 0, log_p[:, :, 1], log_p[:, :, 0])
    segmentation = torch.where(positive, MASK_WEIGHT * pixels.mean((2, 3)), 0.0)
    regression = torch.where(positive, smooth_l1_loss(deltas, wanted), 0.0)
    total = entropy + segmentation + regression
    count = min(count, total.shape[1])
    best, index = top_k(torch.where(used, total.detach(), -1.0), count)
    chosen = (best >= 0).to(total.dtype)
    entropy, segmentation, regression = (
        (part.gather(1, index) * chosen).sum(1) for part in (entropy, segmentation, regression)
    )
    return {
        "cls": entropy / torch.clamp(chosen.sum(1), min=1.0),
        "seg": segmentation / count,
        "bbox": regression / count,
        "total": total,
    }


class FCISCriterion(nn.Module):
    """Objectness and boxes of sampled anchors; classes, masks and boxes of the hardest proposals.

    Args:
        anchors, rois: how many per image the losses use.

    Inputs: ``outputs`` of the model, which was given the targets; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels,
        ``"labels"`` (N, M) int64 from 0 on, ``"masks"`` (N, M, H, W) 0 or 1, ``"valid"`` (N, M) bool, False for
        padding; and ``"anchor_priorities"`` (N, A), if given: the highest are sampled, otherwise the first.
    Returns: dict of scalars: ``"rpn_cls"``, ``"rpn_bbox"``, ``"cls"``, ``"seg"``, ``"bbox"``, ``"total"``.
    """

    def __init__(self, anchors: int = ANCHORS, rois: int = ROIS):
        super().__init__()
        self.anchors, self.rois, self.rpn_coder, self.coder = anchors, rois, DeltaCoder(), DeltaCoder(STDS)

    def forward(self, outputs, targets):
        losses = {**self.of_anchors(outputs, targets), **self.of_proposals(outputs, targets)}
        return {**losses, "total": sum(losses.values())}

    def of_anchors(self, outputs, targets):
        logits, anchors, boxes = outputs["objectness"], outputs["anchors"], targets["boxes"].to(outputs["anchors"])
        present = targets["valid"] & has_area(boxes)
        limit = outputs["image_size"].flip(0)
        inside = (anchors[:, :2] >= 0).all(-1) & (anchors[:, 2:] <= limit).all(-1)
        iou = torch.where(inside, pairwise_iou(boxes, anchors), -1.0)
        matched = torch.where(inside, assign_max_iou(iou, present, 0.7, 0.3), IGNORED)
        priorities = targets.get("anchor_priorities")
        positive, negative = sample(matched >= 0, matched == BACKGROUND, self.anchors, 0.5, priorities)
        log_p, used = torch.log_softmax(logits, -1), positive | negative
        entropy = -torch.where(positive, log_p[..., 1], log_p[..., 0])
        # an anchor without an object has itself for a target: finite, and masked
        wanted = torch.where(positive[..., None], take_rows(boxes, matched), anchors)
        errors = smooth_l1_loss(outputs["anchor_deltas"], self.rpn_coder.encode(wanted, anchors), 1 / 9)
        return {
            "rpn_cls": torch.where(used, entropy, 0.0).sum() / torch.clamp(used.sum(), min=1),
            "rpn_bbox": torch.where(positive, errors, 0.0).sum() / (self.anchors * logits.shape[0]),
        }

    def of_proposals(self, outputs, targets):
        proposals, matched = outputs["proposals"], outputs["matched"]
        positive, used = matched >= 0, matched != IGNORED
        masks = roi_masks(proposals, matched, targets["masks"], outputs["mask_logits"].shape[-1])
        somewhere = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=proposals.dtype, device=proposals.device)
        rois = torch.where(used[..., None], proposals, somewhere)  # log(0 / 0) of an empty slot
        objects = take_rows(targets["boxes"].to(proposals.dtype), matched)
        wanted = self.coder.encode(torch.where(positive[..., None], objects, rois), rois)
        logits = (outputs[key] for key in ("class_logits", "mask_logits", "box_deltas", "labels"))
        losses = hard_rois(*logits, masks, wanted, positive, used, self.rois)
        return {key: losses[key].mean() for key in ("cls", "seg", "bbox")}


class FCISPostProcess(nn.Module):
    """The best boxes of every class, and their masks, voted on by all proposals at the same place.

    Args:
        score_threshold: pairs of proposal and class of at most this probability are dropped.
        candidates: pairs kept per image before suppression.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        voting: whether masks are voted on, see :func:`voted_masks`, with boxes around them; a mask of a single row or
            column is dropped. Otherwise, both are those of the best proposal.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64 from 0 on, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 1e-3,
        candidates: int = 4096,
        iou_threshold: float = 0.3,
        detections: int = 100,
        voting: bool = True,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.voting = iou_threshold, detections, voting

    def forward(self, outputs, input_size):
        proposals = outputs["proposals"]
        scores = torch.softmax(outputs["class_logits"], -1)[..., 1:]
        large = (proposals[..., 2:] - proposals[..., :2] >= LEAST_DETECTION).all(-1)
        classes = scores.shape[-1]
        every = torch.where(large[..., None], scores, -1.0)  # (N, P, K)
        scores, pairs = top_k(every.flatten(1), min(self.candidates, every.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        boxes, labels = take_rows(proposals, index), pairs - index * classes
        kept, valid = batched_nms(
            boxes, scores, labels, scores > self.score_threshold, self.iou_threshold, self.detections
        )
        boxes = torch.where(valid[..., None], take_rows(boxes, kept), 0.0)
        scores, labels, index = (take_rows(x, kept) for x in (scores, labels, index))
        inside = torch.softmax(outputs["mask_logits"], 2)[:, :, 1]  # (N, P, S, S)
        if self.voting:
            votes = torch.clamp(take_rows(every.mT, labels), min=0.0)  # (N, D, P)
            masks, boxes = voted_masks(inside, proposals, votes, boxes, input_size)
            large = (boxes[..., 2:] - boxes[..., :2] > 1).all(-1)
            valid, order = top_k((valid & large).to(torch.int64), self.detections)
            valid = valid > 0
            masks, boxes, scores, labels = (take_rows(x, order) for x in (masks, boxes, scores, labels))
        else:
            masks = take_rows(inside.flatten(2), index).unflatten(2, tuple(inside.shape[2:]))
            masks = drawn_masks(masks, boxes, input_size)
        return {
            "masks": masks & valid[..., None, None],
            "boxes": torch.where(valid[..., None], boxes, 0.0),
            "scores": torch.where(valid, scores, 0.0),
            "labels": torch.where(valid, labels, 0),
            "valid": valid,
        }


def voted_masks(masks, proposals, votes, boxes, size):
    """The mean of the masks of all proposals at the place of a box, weighted by their votes; from 0.4 on.

    As the reference does, it draws every proposal, which takes P times an image's memory.

    Args:
        masks: (N, P, S, S) in [0, 1].
        proposals: (N, P, 4), those without area have no vote.
        votes: (N, D, P), scores of the proposals for the class of each box; 0 or more.
        boxes: (N, D, 4), voted on by proposals with an IoU of at least 0.5.
        size: height and width of the image.

    Returns:
        masks: (N, D, H, W) bool.
        boxes: (N, D, 4), the smallest around them; 0 around nothing.

    Source:
        msracver/FCIS ``lib/mask/{mask_transform.py,mv_kernel.cu}``, whose masks are resized to S x S afterwards, for
        storage.
    """
    votes = torch.where(pairwise_iou(boxes, proposals) >= VOTER, votes, 0.0)
    total = votes.sum(-1, keepdim=True)
    weights = votes / torch.where(total > 0, total, 1.0)  # padding rows get no votes
    drawn = drawn_masks(masks, proposals, size).to(weights.dtype)  # (N, P, H, W)
    voted = (weights @ drawn.flatten(2)).unflatten(2, tuple(drawn.shape[2:])) >= MASK
    return voted, boxes_of_masks(voted, boxes.dtype)


def drawn_masks(masks, boxes, size):
    """Masks (N, D, S, S) of boxes (N, D, 4), resized bilinearly into an image of a height and width; bool."""
    x1, y1, x2, y2 = torch.floor(boxes + 0.5).unbind(-1)
    rows = _spread(y1, torch.maximum(y2, y1 + 1), int(size[0]), masks.shape[2])
    columns = _spread(x1, torch.maximum(x2, x1 + 1), int(size[1]), masks.shape[3])
    return rows @ masks @ columns.mT >= MASK


def _spread(start, end, length: int, cells: int):
    """Weight of every cell in each pixel of a span of a line.  (N, D) -> (N, D, length, cells)."""
    pixel = torch.arange(length, device=start.device).to(start)
    start, end = start[..., None], end[..., None]
    place = torch.clamp((pixel - start + 0.5) * cells / (end - start) - 0.5, min=0.0, max=cells - 1.0)
    cell = torch.arange(cells, device=start.device).to(start)
    weights = torch.clamp(1 - (place[..., None] - cell).abs(), min=0.0)
    return torch.where(((pixel >= start) & (pixel < end))[..., None], weights, 0.0)


def fcis_resnet101(layers=(3, 4, 23, 3), **options) -> FCIS:
    return FCIS(layers=layers, **options)


def fcis_resnet101_voc(num_classes: int = 20, **options) -> FCIS:
    return fcis_resnet101(num_classes=num_classes, **options)
