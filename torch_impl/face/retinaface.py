"""RetinaFace: one pass over an image finds faces, their boxes and five points of each.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641. Parameter names and numbers:
biubug6/Pytorch_Retinaface ``models/retinaface.py`` (MIT), which has neither the mesh decoder (``retinaface_dense.py``)
nor the paper's levels P2 and P6 (``retinaface_paper.py``). What to look at: a context module widens each level's
receptive field, a face without landmarks still counts for boxes and classes, and only the largest losses of the
background count.

Mirror notes:
- NCHW here, NHWC in TensorFlow: here maps are transposed before they become rows of anchors.
- Keras infers the input widths.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.nms import nms
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import smooth_l1_loss

__all__ = [
    "MobileNet025",
    "RetinaFace",
    "RetinaFaceCriterion",
    "RetinaFacePostProcess",
    "retinaface_mobilenet025",
    "retinaface_resnet50",
]

VARIANCES = (0.1, 0.2)  # shifts and log sizes are divided by these
STEPS = (8, 16, 32)  # pixels from cell to cell in each level
SIZES = ((16, 32), (64, 128), (256, 512))  # sizes of the square anchors of a cell, pixels
LEAST_OVERLAP = 0.2  # a face that no anchor overlaps this much is not assigned

CONV = functools.partial(nn.Conv2d, bias=False)


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, slope: float | None, stride: int = 1):
    """Convolution, normalisation, leaky ReLU unless the slope is None."""
    layers = [CONV(in_channels, out_channels, kernel_size, stride, kernel_size // 2), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([] if slope is None else [nn.LeakyReLU(slope)]))


def conv_dw(in_channels: int, out_channels: int, stride: int):
    """A depthwise 3x3 convolution, then a 1x1 convolution."""
    return nn.Sequential(
        CONV(in_channels, in_channels, 3, stride, 1, groups=in_channels),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(0.1),
        CONV(in_channels, out_channels, 1),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )


class MobileNet025(nn.Module):
    """MobileNet at a quarter of its width, with leaky activations.

    Args:
        width: channels of the first convolution.

    Inputs: (N, 3, H, W) float.
    Returns: dict of maps ``"c3"``, ``"c4"``, ``"c5"``.
    """

    def __init__(self, width: int = 8):
        super().__init__()
        self.channels = {"c3": 8 * width, "c4": 16 * width, "c5": 32 * width}
        pairs = [(1, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1)]
        first = [conv_dw(width * a, width * b, stride) for a, b, stride in pairs]
        self.stage1 = nn.Sequential(conv_bn(3, width, 3, 0.1, 2), *first)
        more = [conv_dw(16 * width, 16 * width, 1) for _ in range(5)]
        self.stage2 = nn.Sequential(conv_dw(8 * width, 16 * width, 2), *more)
        self.stage3 = nn.Sequential(conv_dw(16 * width, 32 * width, 2), conv_dw(32 * width, 32 * width, 1))

    def forward(self, images):
        c3 = self.stage1(images)
        c4 = self.stage2(c3)
        return {"c3": c3, "c4": c4, "c5": self.stage3(c4)}


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, addition from the top down, 3x3 convolutions of the two finer sums.

    Args:
        in_channels: of the three maps.
        out_channels: channels of the levels.
        slope: of the leaky ReLUs.

    maps: three (N, C_i, H_i, W_i) -> three (N, out_channels, H_i, W_i), fine to coarse.
    """

    def __init__(self, in_channels: list[int], out_channels: int, slope: float):
        super().__init__()
        for i, width in enumerate(in_channels, start=1):
            setattr(self, f"output{i}", conv_bn(width, out_channels, 1, slope))
        self.merge1 = conv_bn(out_channels, out_channels, 3, slope)
        self.merge2 = conv_bn(out_channels, out_channels, 3, slope)

    def forward(self, maps):
        fine, middle, coarse = (getattr(self, f"output{i}")(x) for i, x in enumerate(maps, start=1))
        middle = self.merge2(middle + resize_nearest(coarse, map_size(middle)))
        fine = self.merge1(fine + resize_nearest(middle, map_size(fine)))
        return [fine, middle, coarse]


class SSH(nn.Module):
    """Three parallel receptive fields of 3, 5 and 7 pixels.

    Args:
        in_channels: C.
        out_channels: channels of the result, a multiple of 4.
        slope: of the leaky ReLUs.
        conv: makes a convolution as :func:`conv_bn` does.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, slope: float, conv: Callable = conv_bn):
        super().__init__()
        quarter = out_channels // 4
        self.conv3X3 = conv(in_channels, out_channels // 2, 3, None)
        self.conv5X5_1, self.conv5X5_2 = conv(in_channels, quarter, 3, slope), conv(quarter, quarter, 3, None)
        self.conv7X7_2, self.conv7x7_3 = conv(quarter, quarter, 3, slope), conv(quarter, quarter, 3, None)

    def forward(self, x):
        y = self.conv5X5_1(x)
        seven = self.conv7x7_3(self.conv7X7_2(y))
        return torch.cat((self.conv3X3(x), self.conv5X5_2(y), seven), 1).relu()


class Head(nn.Module):
    """A 1x1 convolution whose result is reshaped to rows.

    Args:
        in_channels: C.
        numbers: values per anchor; a cell has two anchors.

    x: (N, C, H, W) -> (N, 2 H W, numbers), both anchors of a cell together.
    """

    def __init__(self, in_channels: int, numbers: int):
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(in_channels, 2 * numbers, 1)

    def forward(self, x):
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.numbers)  # mirror: NCHW


class RetinaFace(nn.Module):
    """The detector.

    Args:
        body: returns the maps ``"c3"``, ``"c4"``, ``"c5"``.
        out_channels: channels of the levels; up to 64, activations are leaky.

    Inputs: (N, 3, H, W) float, BGR minus (104, 117, 123).
    Returns: dict: ``"boxes"`` (N, A, 4) and ``"landmarks"`` (N, A, 10) relative to the anchors, ``"classes"`` (N, A, 2)
        logits (none, face), ``"anchors"`` (A, 4) xyxy in pixels.
    """

    def __init__(self, body, out_channels: int = 256):
        super().__init__()
        self.body = body
        slope = 0.1 if out_channels <= 64 else 0.0
        self.fpn = Pyramid([body.channels[name] for name in ("c3", "c4", "c5")], out_channels, slope)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(out_channels, out_channels, slope) for _ in STEPS)
        for name, numbers in (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)):
            setattr(self, name, nn.ModuleList(Head(out_channels, numbers) for _ in STEPS))  # mirror: infers

    def levels(self, images):
        """The maps that the heads read."""
        maps = self.body(images)
        levels = self.fpn([maps[name] for name in ("c3", "c4", "c5")])
        return [ssh(x) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]

    def answers(self, images, levels) -> dict:
        """The results of :meth:`forward`, from the maps."""
        anchors = [
            torch.from_numpy(grid_anchors(cell_anchors(sizes, (1.0,)), map_size(x), (step, step), 0.5)).to(images)
            for sizes, step, x in zip(SIZES, STEPS, levels, strict=True)
        ]
        heads = {"boxes": self.BboxHead, "classes": self.ClassHead, "landmarks": self.LandmarkHead}
        outputs = {key: torch.cat([head(x) for head, x in zip(part, levels)], 1) for key, part in heads.items()}
        return {**outputs, "anchors": torch.cat(anchors)}

    def forward(self, images):
        return self.answers(images, self.levels(images))


def centre_and_size(boxes_xyxy):
    """(..., 4) -> (..., 2) x and y, (..., 2) width and height."""
    return (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2, boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]


class RetinaFaceCriterion(nn.Module):
    """Smooth L1 of boxes and landmarks, cross-entropy of faces and of the hardest background.

    Args:
        overlap: from which on an anchor is a face.
        negatives: background anchors per face of the image, those with the largest losses.
        box_weight, landmark_weight: of these losses.

    Inputs: ``outputs`` of :class:`RetinaFace`; ``targets``: ``"boxes"`` (N, M, 4) xyxy and ``"landmarks"`` (N, M, 10)
        x and y in turn, in pixels, ``"marked"`` (N, M) bool, whose landmarks are known, ``"valid"`` (N, M) bool.
    Returns: dict of scalars, unweighted: ``"box"``, ``"class"``, ``"landmark"``; ``"total"``.
    """

    def __init__(
        self, overlap: float = 0.35, negatives: int = 7, box_weight: float = 2.0, landmark_weight: float = 1.0
    ):
        super().__init__()
        self.overlap, self.negatives = overlap, negatives
        self.box_weight, self.landmark_weight = box_weight, landmark_weight

    def assign(self, boxes, valid, anchors):
        """Index of every anchor's face (N, A), whether it has one (N, A), and whether it is background (N, A)."""
        iou = pairwise_iou(boxes, anchors)
        iou = torch.where(valid[..., None], iou, -torch.ones_like(iou))  # (N, M, A)
        every = torch.arange(iou.shape[2], device=iou.device)
        chosen = (argmax(iou, 2)[..., None] == every) & valid[..., None]  # the best anchor of each face
        eligible = (iou.amax(2) >= LEAST_OVERLAP)[..., None]  # (N, M, 1)
        slots = torch.arange(iou.shape[1], device=iou.device)[:, None]
        # NOTE: ineligible faces take their best anchor too, which keeps its overlap; the last face wins
        last = torch.where(chosen, slots, -torch.ones_like(slots)).amax(1)
        index = torch.where(last >= 0, last, argmax(iou, 1))
        positive = (chosen & eligible).any(1) | (iou.amax(1) >= self.overlap)
        positive = positive & eligible.any(1)
        return index, positive, ~positive

    def forward(self, outputs, targets):
        anchors, classes = outputs["anchors"], outputs["classes"]
        dtype, zero = classes.dtype, torch.zeros([], dtype=classes.dtype, device=classes.device)
        boxes = targets["boxes"].to(dtype)
        index, positive, negative = self.assign(boxes, targets["valid"], anchors)
        centre, size = centre_and_size(anchors)
        matched = torch.where(positive[..., None], take_rows(boxes, index), anchors)
        goal, goal_size = centre_and_size(matched)
        wanted = ((goal - centre) / (VARIANCES[0] * size), (goal_size / size).log() / VARIANCES[1])
        losses = smooth_l1_loss(outputs["boxes"], torch.cat(wanted, -1))
        faces = positive.to(dtype).sum().clamp(min=1.0)
        box = torch.where(positive, losses, zero).sum() / faces

        marked = positive & take_rows(targets["marked"], index)
        points = torch.where(marked[..., None], take_rows(targets["landmarks"].to(dtype), index), zero)
        wanted = (points - centre.repeat(1, 5)) / (VARIANCES[0] * size.repeat(1, 5))
        losses = smooth_l1_loss(outputs["landmarks"], wanted)
        landmark = torch.where(marked, losses, zero).sum()
        landmark = landmark / marked.to(dtype).sum().clamp(min=1.0)

        log_p = classes.log_softmax(-1)
        background = top_k(torch.where(negative, -log_p[..., 0], zero), positive.shape[1])[0]  # (N, A), descending
        count = positive.sum(1, keepdim=True)
        places = torch.arange(positive.shape[1], device=classes.device)
        hard = places < (self.negatives * count).clamp(max=positive.shape[1] - 1)
        found = torch.where(positive, -log_p[..., 1], zero).sum()
        found = (found + torch.where(hard, background, zero).sum()) / faces
        total = self.box_weight * box + found + self.landmark_weight * landmark
        return {"box": box, "class": found, "landmark": landmark, "total": total}


class RetinaFacePostProcess(nn.Module):
    """The faces of every image.

    Args:
        score_threshold: boxes of at most this probability are dropped; 0.6 suits display.
        candidates: boxes that take part in the suppression.
        iou_threshold: boxes overlap if their IoU, computed one pixel wider, is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of :class:`RetinaFace`.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy and ``"landmarks"`` (N, D, 10) x and y in turn, in pixels; ``"scores"``
        (N, D) descending, ``"valid"`` (N, D) bool; where False, the others are 0; if the outputs have them, ``"codes"``
        (N, D, 144), see ``retinaface_dense.py``.
    """

    def __init__(
        self,
        score_threshold: float = 0.02,
        candidates: int = 5000,
        iou_threshold: float = 0.4,
        detections: int = 750,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def forward(self, outputs):
        centre, size = centre_and_size(outputs["anchors"])
        deltas = outputs["boxes"]
        middle, half = centre + VARIANCES[0] * deltas[..., :2] * size, (VARIANCES[1] * deltas[..., 2:]).exp() * size / 2
        boxes = torch.cat((middle - half, middle + half), -1)
        points = centre.repeat(1, 5) + VARIANCES[0] * outputs["landmarks"] * size.repeat(1, 5)
        scores = outputs["classes"].softmax(-1)[..., 1]
        scores, index = top_k(scores, min(self.candidates, scores.shape[1]))
        boxes, rows = take_rows(boxes, index), {"landmarks": points}
        if "codes" in outputs:
            rows["codes"] = outputs["codes"]
        wider = boxes + boxes.new_tensor((0.0, 0.0, 1.0, 1.0))  # the reference counts both borders
        kept, valid = nms(wider, scores, self.iou_threshold, self.detections, self.score_threshold)
        zero = boxes.new_zeros(())
        found = {"boxes": boxes} | {name: take_rows(x, index) for name, x in rows.items()}
        found = {name: torch.where(valid[..., None], take_rows(x, kept), zero) for name, x in found.items()}
        return {**found, "scores": torch.where(valid, take_rows(scores, kept), zero), "valid": valid}


def retinaface_mobilenet025(width: int = 8, out_channels: int = 64) -> RetinaFace:
    return RetinaFace(MobileNet025(width), out_channels)


def retinaface_resnet50(
    layers: tuple[int, ...] = (3, 4, 6, 3),
    planes: tuple[int, ...] = (64, 128, 256, 512),
    out_channels: int = 256,
) -> RetinaFace:
    body = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(2, 3, 4))
    return RetinaFace(body, out_channels)
