"""YOLOv2: five anchors in each cell of one map, concatenated with a finer one.

"YOLO9000: Better, Faster, Stronger", 2016, arXiv:1612.08242.
Parameter names: darknet's configuration files, see ``_darknet.py``; losses: darknet ``src/region_layer.c``, whose
gradients are those of these losses, except that darknet omits the slope of the centres' sigmoid.

Mirror notes:
- NCHW here, NHWC in TensorFlow: a map is transposed here before it becomes rows of anchors.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.centres import area, corners
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.points import grid_points
from torch_impl.boxes.results import results
from torch_impl.detection._darknet import DarknetLayers
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.dense import paired_iou

__all__ = [
    "YOLOV2",
    "YOLOV2Criterion",
    "YOLOV2PostProcess",
    "yolov2",
    "yolov2_tiny",
    "yolov2_tiny_criterion",
    "yolov2_tiny_voc",
    "yolov2_tiny_voc_criterion",
    "yolov2_tiny_voc_postprocess",
    "yolov2_voc",
    "yolov2_voc_criterion",
    "yolov2_voc_postprocess",
]

STRIDE = 32
# width and height in cells
COCO_ANCHORS = ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828))
VOC_ANCHORS = ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071))
TINY_VOC_ANCHORS = ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))


class YOLOV2(DarknetLayers):
    """A network from one of darknet's configuration files.

    Args:
        rows: of the file, see :class:`DarknetLayers`; with one result.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: (N, A (5 + K), H / 32, W / 32): of every anchor x, y, w, h, object, classes.
    """

    def __init__(self, rows: tuple[tuple, ...]):
        super().__init__(rows)

    def forward(self, images):
        return super().forward(images)[0]


def decoded(x, anchors):
    """The map as rows of anchors.

    Args:
        x: of the model.
        anchors: widths and heights in cells.

    Returns:
        rows (N, H W A, 5 + K); boxes (N, H W A, 4), centre and size in cells; centres inside their cells (..., 2).
    """
    n, _, h, w = x.shape
    # mirror: transposed
    rows = x.reshape(n, len(anchors), -1, h, w).permute(0, 3, 4, 1, 2).reshape(n, h * w * len(anchors), -1)
    corner = torch.from_numpy(grid_points((h, w), 1, 0.0)).to(x).repeat_interleave(len(anchors), 0)
    size = torch.tensor(anchors, dtype=x.dtype, device=x.device).repeat(h * w, 1)
    inside = torch.sigmoid(rows[..., :2])
    return rows, torch.cat((inside + corner, torch.exp(rows[..., 2:4]) * size), -1), inside


class YOLOV2Criterion(nn.Module):
    """Half the squared errors of position, size and object, cross-entropy of the classes; sums divided by the batch's
    size.

    An object, the last of several, belongs to the anchor of the most similar shape in the cell of its centre.
    Anchors whose prediction overlaps an object by more than ``threshold`` are not background.

    Args:
        anchors: widths and heights in cells.
        threshold: as above.
        object_scale: weight of the objects' squared errors.
        rescore: whether the target of an object is the overlap of its prediction, otherwise 1.
        prior_scale: weight with which all other anchors are pulled to the middle of their cells and to their shapes,
            0.01 for the first 12800 images, then 0.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_coord"``, ``"loss_object"``, ``"loss_class"``, ``"loss_prior"``, ``"total"``.
    """

    def __init__(
        self,
        anchors: tuple[tuple[float, float], ...] = COCO_ANCHORS,
        threshold: float = 0.6,
        object_scale: float = 5.0,
        rescore: bool = True,
        prior_scale: float = 0.0,
    ):
        super().__init__()
        self.anchors, self.threshold = tuple(anchors), threshold
        self.object_scale, self.rescore, self.prior_scale = object_scale, rescore, prior_scale

    def forward(self, outputs, targets):
        height, width = map_size(outputs)
        rows, predicted, inside = decoded(outputs, self.anchors)
        dtype, device, count = rows.dtype, rows.device, len(self.anchors)
        boxes = targets["boxes"].to(dtype) / STRIDE
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & (size > 0).all(-1)
        size = torch.where(valid[..., None], size, 1.0)

        anchors = torch.tensor(self.anchors, dtype=dtype, device=device)
        shared = area(torch.minimum(size[:, :, None], anchors))  # (N, M, A), one corner in common
        likeness = shared / (area(size)[..., None] + area(anchors) - shared)
        cell = torch.floor(centre)
        place = (cell[..., 1].long() * width + cell[..., 0].long()) * count + argmax(likeness)
        here = (torch.arange(rows.shape[1], device=device) == place[..., None]) & valid[..., None]  # (N, M, P)
        slots = torch.arange(boxes.shape[1], device=device)[:, None]
        matched = torch.where(here, slots, -1).amax(1)  # (N, P), the last of several objects
        positive = matched >= 0

        predicted = corners(predicted).detach()  # mirror: gradients are cut
        overlap = torch.where(valid[..., None], pairwise_iou(boxes, predicted), 0.0).amax(1)
        background = ~positive & (overlap <= self.threshold)
        wanted_box = torch.where(positive[..., None], take_rows(boxes, matched), predicted)
        goal = paired_iou(predicted, wanted_box, 1e-12) if self.rescore else torch.ones_like(overlap)
        present = torch.sigmoid(rows[..., 4])
        weight = torch.where(positive, self.object_scale, background.to(dtype))
        present = weight * (present - torch.where(positive, goal, 0.0)).square()

        extent, shape = take_rows(size, matched), anchors.repeat(height * width, 1)
        offset = inside - take_rows(centre - cell, matched)
        stretch = rows[..., 2:4] - torch.log(extent / shape)
        weight = 2 - area(extent) / (height * width)
        place = torch.where(positive, weight * (offset.square() + stretch.square()).sum(-1), 0.0)
        drawn = ((inside - 0.5).square() + rows[..., 2:4].square()).sum(-1)
        drawn = torch.where(positive, 0.0, drawn)
        labels = take_rows(targets["labels"], matched)
        classes = -F.log_softmax(rows[..., 5:], -1).gather(2, labels[..., None])[..., 0]
        losses = {
            "loss_coord": place.sum() / 2,
            "loss_object": present.sum() / 2,
            "loss_class": torch.where(positive, classes, 0.0).sum(),
            "loss_prior": self.prior_scale * drawn.sum() / 2,
        }
        losses = {key: loss / rows.shape[0] for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


class YOLOV2PostProcess(nn.Module):
    """The best boxes of every image, scored by the probability of an object times that of its class, suppressed by
    class.

    Args:
        anchors: widths and heights in cells.
        score_threshold: pairs of anchor and class of at most this score are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        anchors: tuple[tuple[float, float], ...] = COCO_ANCHORS,
        score_threshold: float = 0.24,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
    ):
        super().__init__()
        self.anchors, self.score_threshold, self.candidates = tuple(anchors), score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def forward(self, outputs):
        rows, boxes, _ = decoded(outputs, self.anchors)
        scores = torch.sigmoid(rows[..., 4:5]) * F.softmax(rows[..., 5:], -1)
        count, classes = scores.shape[1:]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, count * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, valid = pairs - index * classes, scores > self.score_threshold
        boxes = take_rows(corners(boxes) * STRIDE, index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov2_voc_criterion(anchors=VOC_ANCHORS, **options) -> YOLOV2Criterion:
    return YOLOV2Criterion(anchors=anchors, **options)


def yolov2_voc_postprocess(anchors=VOC_ANCHORS, **options) -> YOLOV2PostProcess:
    return YOLOV2PostProcess(anchors=anchors, **options)


def yolov2_tiny_criterion(rescore=False, **options) -> YOLOV2Criterion:
    return YOLOV2Criterion(rescore=rescore, **options)


def yolov2_tiny_voc_criterion(anchors=TINY_VOC_ANCHORS, **options) -> YOLOV2Criterion:
    return YOLOV2Criterion(anchors=anchors, **options)


def yolov2_tiny_voc_postprocess(anchors=TINY_VOC_ANCHORS, **options) -> YOLOV2PostProcess:
    return YOLOV2PostProcess(anchors=anchors, **options)


def yolov2(width: float = 1.0, num_classes: int = 80) -> YOLOV2:
    """The rows of Darknet-19, whose second last map is concatenated to the last."""
    c = [int(n * width) for n in (32, 64, 128, 256, 512, 1024)]
    rows = [("conv", c[0], 3, 1), ("max", 2, 2), ("conv", c[1], 3, 1)]
    for i, pairs in ((2, 1), (3, 1), (4, 2), (5, 2)):
        rows += [("max", 2, 2), ("conv", c[i], 3, 1)]
        rows += [("conv", c[i - 1], 1, 1), ("conv", c[i], 3, 1)] * pairs
    rows += [("conv", c[5], 3, 1)] * 2
    rows += [("route", (16,)), ("conv", c[1], 1, 1), ("reorg",), ("route", (-1, -4))]
    rows += [("conv", c[5], 3, 1), ("plain", 5 * (5 + num_classes)), ("out",)]
    return YOLOV2(tuple(rows))


def yolov2_voc(num_classes: int = 20, **options) -> YOLOV2:
    return yolov2(num_classes=num_classes, **options)


def yolov2_tiny(width: float = 1.0, num_classes: int = 80, last: int = 512) -> YOLOV2:
    """The rows of nine convolutions; ``last`` is the width of the second last."""
    rows = []
    for n in (16, 32, 64, 128, 256):
        rows += [("conv", int(n * width), 3, 1), ("max", 2, 2)]
    rows += [("conv", int(512 * width), 3, 1), ("max", 2, 1), ("conv", int(1024 * width), 3, 1)]
    rows += [("conv", int(last * width), 3, 1), ("plain", 5 * (5 + num_classes)), ("out",)]
    return YOLOV2(tuple(rows))


def yolov2_tiny_voc(num_classes: int = 20, last: int = 1024, **options) -> YOLOV2:
    return yolov2_tiny(num_classes=num_classes, last=last, **options)
