"""Gaussian YOLOv3: each coordinate of a box is a normal distribution, whose width is its uncertainty.

"Gaussian YOLOv3: An Accurate and Fast Object Detector Using Localization Uncertainty for Autonomous Driving", 2019,
arXiv:1904.04620.
Losses: jwchoi384/Gaussian_YOLOv3 ``src/gaussian_yolo_layer.c`` (YOLO licence), whose gradients are those of these
losses, except that it omits the slopes of the sigmoids of centres and widths. Parameter names: as in YOLOv3.
What to look at: the loss of a box is its negative log-likelihood, and the widths lower the score.

Mirror notes:
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
- PyTorch fills the tensors of finished layers, Keras gives each layer its initial values.
"""

import math

import torch
from torch import nn

from torch_impl.boxes.centres import area
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.results import results
from torch_impl.classification.darknet import conv_leaky, darknet53
from torch_impl.detection.yolov3 import LEVELS, YOLOV3Neck, rows_of
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.dense import binary_cross_entropy

__all__ = [
    "GaussianYOLOV3",
    "GaussianYOLOV3Criterion",
    "GaussianYOLOV3Head",
    "GaussianYOLOV3PostProcess",
    "gaussian_yolov3_bdd",
    "gaussian_yolov3_kitti",
    "gaussian_yolov3_kitti_criterion",
    "gaussian_yolov3_kitti_postprocess",
]

BDD_ANCHORS = (  # width and height in pixels, by level from coarse to fine
    ((73, 175), (141, 178), (144, 291)),
    ((32, 97), (57, 64), (92, 109)),
    ((7, 10), (14, 24), (27, 43)),
)
KITTI_ANCHORS = (
    ((49, 240), (82, 170), (118, 206)),
    ((45, 76), (27, 172), (67, 116)),
    ((13, 30), (23, 53), (17, 102)),
)
LEAST_WIDTH = 0.3  # added to the width in the divisor, not where it scales the distance
EPS = 1e-9  # added to the likelihood


class GaussianYOLOV3Head(nn.Module):
    """A 3x3 convolution to twice the width and a 1x1 convolution, separately for every map.

    Args:
        channels: of the maps.
        num_classes: classes K.
        anchors: of a cell.

    Inputs: list of maps (N, C, H, W), from coarse to fine.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"``, ``"pred_p3"`` (N, A (9 + K), H, W): of every anchor x and its width, y
        and its width, w, ..., h, ..., object, classes.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, anchors: int = 3):
        super().__init__()
        self.convs_bridge = nn.ModuleList(conv_leaky(c, 2 * c, 3) for c in channels)
        self.convs_pred = nn.ModuleList()
        for c in channels:
            conv = nn.Conv2d(2 * c, anchors * (9 + num_classes), 1)
            nn.init.normal_(conv.weight, std=0.01)  # mirror: fills the tensors
            nn.init.zeros_(conv.bias)
            self.convs_pred.append(conv)

    def forward(self, maps):
        found = [pred(bridge(x)) for x, bridge, pred in zip(maps, self.convs_bridge, self.convs_pred)]
        return {f"pred_{level}": x for level, x in zip(LEVELS, found)}


class GaussianYOLOV3(nn.Module):
    """Darknet-53, the neck of YOLOv3, head.

    Args:
        depths, widths: of the trunk, see :class:`Darknet`.
        num_classes: classes K.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: see :class:`GaussianYOLOV3Head`.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 2, 8, 8, 4),
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024),
        num_classes: int = 10,
    ):
        super().__init__()
        self.backbone = darknet53(depths, widths, features_only=True, out_indices=(2, 3, 4))
        channels = tuple(self.backbone.channels.values())[::-1]
        halves = tuple(c // 2 for c in channels)
        self.neck = YOLOV3Neck(channels, halves)
        self.bbox_head = GaussianYOLOV3Head(halves, num_classes)

    def forward(self, images):
        return self.bbox_head(self.neck(list(self.backbone(images).values())[::-1]))


def distributions(rows):
    """The four distributions of every anchor.

    Args:
        rows: (N, P, 9 + K).

    Returns:
        means (N, P, 4): x and y in cells inside the anchor's cell, logarithms of width and height relative to the
        anchor's; their widths (N, P, 4) in (0, 1).
    """
    means, widths = rows[..., 0:8:2], torch.sigmoid(rows[..., 1:8:2])
    return torch.cat((torch.sigmoid(means[..., :2]), means[..., 2:]), -1), widths


def boxes_of(means, anchors, stride):
    """Boxes from means, see :func:`distributions`, anchors (P, 4) and strides (P,) -> (N, P, 4) xyxy in pixels."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + (means[..., :2] - 0.5) * stride[:, None]
    half = torch.exp(means[..., 2:]) * (anchors[:, 2:] - anchors[:, :2]) / 2
    return torch.cat((centre - half, centre + half), -1)


class GaussianYOLOV3Criterion(nn.Module):
    """Half the negative log-likelihood of boxes, cross-entropies of object and classes; sums divided by the batch's
    size.

    An object belongs to the most similar in shape of the nine anchors, in the cell of its centre; of several objects at
    one anchor only the last one's box counts, but all their classes. Anchors whose mean box overlaps an object
    by more than ``threshold`` are not background.

    Args:
        threshold: as above.
        anchors: widths and heights in pixels, by level from coarse to fine.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_box"``, ``"loss_object"``, ``"loss_class"``, ``"total"``.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = BDD_ANCHORS,
    ):
        super().__init__()
        self.threshold, self.anchors = threshold, anchors

    def forward(self, outputs, targets):
        rows, anchors, stride = rows_of(outputs, self.anchors)
        dtype, finest = rows.dtype, outputs[f"pred_{LEVELS[-1]}"]
        boxes, labels = targets["boxes"].to(dtype), targets["labels"]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)

        # (N, M, P): the object's similarity to the anchors of the cell that contains its centre
        shape = anchors[:, 2:] - anchors[:, :2]
        shared = area(torch.minimum(size[:, :, None], shape))  # one corner in common
        likeness = shared / (area(size)[..., None] + area(shape) - shared)
        corner = torch.floor((anchors[:, :2] + anchors[:, 2:]) / 2 / stride[:, None])  # (P, 2) of the cell, in cells
        near = (torch.floor(centre[:, :, None] / stride[:, None]) == corner).all(-1)
        best = argmax(torch.where(near, likeness, -1.0))
        here = (torch.arange(rows.shape[1], device=rows.device) == best[..., None]) & near & valid[..., None]
        slots = torch.arange(boxes.shape[1], device=rows.device)[:, None]
        matched = torch.where(here, slots, -1).amax(1)  # (N, P)
        positive = matched >= 0

        means, widths = distributions(rows)
        predicted = boxes_of(means, anchors, stride).detach()  # mirror: gradients are cut
        overlap = torch.where(valid[..., None], pairwise_iou(boxes, predicted), 0.0).amax(1)
        background = ~positive & (overlap <= self.threshold)

        place, extent = take_rows(centre, matched) / stride[:, None] - corner, take_rows(size, matched)
        wanted = torch.cat((place, torch.log(extent / shape)), -1)
        widths = torch.where(positive[..., None], widths, 1.0)
        distance = torch.where(positive[..., None], wanted - means, 0.0) / widths
        likelihood = torch.exp(-distance.square() / 2) / (math.sqrt(2 * math.pi) * (widths + LEAST_WIDTH))
        image = finest.shape[2] * finest.shape[3] * 64.0  # pixels, of cells of 8 x 8
        losses = -torch.log(likelihood + EPS).sum(-1) / 2 * (2 - area(extent) / image)

        kinds = torch.arange(rows.shape[-1] - 9, device=rows.device) == labels[..., None]  # (N, M, K)
        classes = here.to(dtype).transpose(1, 2) @ kinds.to(dtype)
        classes = binary_cross_entropy(rows[..., 9:], torch.clamp(classes, max=1.0))
        present = binary_cross_entropy(rows[..., 8], positive.to(dtype))
        losses = {
            "loss_box": torch.where(positive, losses, 0.0).sum(),
            "loss_object": torch.where(positive | background, present, 0.0).sum(),
            "loss_class": torch.where(positive[..., None], classes, 0.0).sum(),
        }
        losses = {key: loss / rows.shape[0] for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


class GaussianYOLOV3PostProcess(nn.Module):
    """The best boxes of every image: scored by the probabilities of object and class times 1 minus the box's mean
    width.

    Args:
        score_threshold: pairs of anchor and class of at most this score are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        anchors: see :class:`GaussianYOLOV3Criterion`.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.005,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = BDD_ANCHORS,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.anchors = iou_threshold, detections, anchors

    def forward(self, outputs):
        rows, anchors, stride = rows_of(outputs, self.anchors)
        means, widths = distributions(rows)
        scores = torch.sigmoid(rows[..., 8:9]) * (1 - widths.mean(-1, keepdim=True))
        scores = scores * torch.sigmoid(rows[..., 9:])
        classes = scores.shape[-1]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, valid = pairs - index * classes, scores > self.score_threshold
        boxes = take_rows(boxes_of(means, anchors, stride), index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def gaussian_yolov3_kitti_criterion(anchors=KITTI_ANCHORS, **options) -> GaussianYOLOV3Criterion:
    return GaussianYOLOV3Criterion(anchors=anchors, **options)


def gaussian_yolov3_kitti_postprocess(anchors=KITTI_ANCHORS, **options) -> GaussianYOLOV3PostProcess:
    return GaussianYOLOV3PostProcess(anchors=anchors, **options)


def gaussian_yolov3_bdd(num_classes: int = 10, **options) -> GaussianYOLOV3:
    return GaussianYOLOV3(num_classes=num_classes, **options)


def gaussian_yolov3_kitti(num_classes: int = 3, **options) -> GaussianYOLOV3:
    return GaussianYOLOV3(num_classes=num_classes, **options)
