"""YOLOv1: one network sees the whole image and predicts a class and two boxes for each of 7 x 7 cells.

"You Only Look Once: Unified, Real-Time Object Detection", 2015, arXiv:1506.02640.
Parameter names: darknet's configuration files, see ``_darknet.py``; losses: darknet ``src/detection_layer.c``, whose
gradients are those of these losses.
What to look at: a fully connected layer returns all values at once, classes, then objects, then boxes, without sigmoid;
the boxes of a cell have no fixed shapes, and the better one is trained.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the inputs of a fully connected layer have PyTorch's order, after a transpose there.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
- Patches: PyTorch's ``unfold`` is nine shifted maps there.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.centres import corners
from torch_impl.boxes.points import grid_points
from torch_impl.boxes.results import results
from torch_impl.detection._darknet import DarknetConv
from torch_impl.layers.activation import LeakyReLU
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.dense import paired_iou

__all__ = [
    "YOLOV1",
    "YOLOV1Criterion",
    "YOLOV1PostProcess",
    "yolov1",
    "yolov1_local",
    "yolov1_local_criterion",
    "yolov1_local_postprocess",
    "yolov1_small",
    "yolov1_tiny",
]

STRIDE = 64
LEAST_SIZE = 0.005  # of an object, as a share of the image
TRUNK = (  # width, kernel size, stride; None for a pooling
    ((64, 7, 2), None, (192, 3, 1), None, (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), None)
    + ((256, 1, 1), (512, 3, 1)) * 4
    + ((512, 1, 1), (1024, 3, 1), None)
    + ((512, 1, 1), (1024, 3, 1)) * 2
    + ((1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1))
)


class BiasedConv(DarknetConv):
    """Convolution with a bias, and leaky ReLU of slope 0.1; see :class:`DarknetConv`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, number: int):
        super().__init__(in_channels, out_channels, kernel_size, stride, number, plain=True)
        self.activation = LeakyReLU(0.1)

    def forward(self, x):
        return self.activation(super().forward(x))


class LocalConv(nn.Module):
    """3x3 convolution with separate weights and biases at every position, and leaky ReLU of slope 0.1.

    Args:
        in_channels, out_channels: widths.
        side: height and width S of the map.

    Inputs: (N, C, S, S).  Returns: (N, out_channels, S, S).
    """

    def __init__(self, in_channels: int, out_channels: int, side: int):
        super().__init__()
        bound = math.sqrt(2 / (9 * in_channels))
        weight = torch.empty(side * side, out_channels, 9 * in_channels)
        self.weight = nn.Parameter(nn.init.uniform_(weight, -bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels, side, side))
        self.activation = LeakyReLU(0.1)

    def forward(self, x):
        patches = F.unfold(x, 3, padding=1)  # (N, 9 C, S S); mirror: Patches
        y = (self.weight @ patches.permute(2, 1, 0)).permute(2, 1, 0)
        return self.activation(y.unflatten(2, x.shape[2:]) + self.bias)


class Connected(nn.Linear):
    """Fully connected layer over all values of a map or row.  (N, ...) -> (N, out_features).

    Args:
        in_features, out_features: widths.
        leaky: whether a leaky ReLU of slope 0.1 follows.
    """

    def __init__(self, in_features: int, out_features: int, leaky: bool):
        super().__init__(in_features, out_features)
        self.leaky = LeakyReLU(0.1) if leaky else None

    def forward(self, x):
        y = super().forward(x.flatten(1))  # mirror: a transpose
        return y if self.leaky is None else self.leaky(y)


class YOLOV1(nn.Module):
    """A network from one of darknet's configuration files.

    Args:
        rows: ("conv", width, kernel size, stride), with normalisation and leaky ReLU; ("biased", ...), the same with a
            bias instead of the normalisation; ("max",), of 2 x 2; ("local", width); ("dropout", rate); ("dense",
            width), with leaky ReLU; ("plain", width), fully connected without.
        side: cells S per row and column.

    Inputs: (N, 3, 64 S, 64 S) float in [0, 1].
    Returns: (N, S S (K + 5 B)): probabilities of the classes cell by cell, those of an object box by box, then x and y
        inside the cell and the square roots of width and height in images, box by box.
    """

    def __init__(self, rows: tuple[tuple, ...], side: int = 7):
        super().__init__()
        models, number, size, width = (
            [],
            0,
            side * side,
            3,
        )  # a fully connected layer has size times width inputs
        for kind, *values in rows:
            if kind in ("conv", "biased"):
                number += 1
                models.append((DarknetConv if kind == "conv" else BiasedConv)(width, *values, number))
            elif kind == "max":
                models.append(nn.MaxPool2d(2))
            elif kind == "local":
                models.append(LocalConv(width, *values, side))
            elif kind == "dropout":
                models.append(nn.Dropout(*values))
            else:
                models.append(Connected(size * width, *values, kind == "dense"))
            size = 1 if kind == "dense" else size
            width = width if kind in ("max", "dropout") else values[0]
        self.models = nn.Sequential(*models)

    def forward(self, images):
        return self.models(images)


def parts_of(predictions, side: int, boxes: int):
    """The model's predictions, split by kind.

    Args:
        predictions: (N, S S (K + 5 B)).
        side, boxes: S and B.

    Returns:
        probabilities of classes (N, S S, K), of objects (N, S S, B); boxes (N, S S, B, 4), x, y and square roots.
    """
    cells = side * side
    classes = predictions.shape[1] // cells - 5 * boxes
    first, second, last = predictions.split((cells * classes, cells * boxes, cells * boxes * 4), 1)
    return (
        first.unflatten(1, (cells, classes)),
        second.unflatten(1, (cells, boxes)),
        last.unflatten(1, (cells, boxes, 4)),
    )


class YOLOV1Criterion(nn.Module):
    """Half the squared errors of position, square roots of size, object and classes; sums divided by the batch's size.

    An object, the first of several, belongs to the cell of its centre, and there to the box that overlaps it most or,
    if none does, to the one with the nearest coordinates. The target of the object's probability is that overlap.

    Args:
        coord_scale, no_object_scale: weights of the boxes' errors and of the objectness of boxes without an object.
        side, boxes: S and B, see :class:`YOLOV1`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Objects narrower or lower than 0.005 of the image take no part.
    Returns: dict of scalars: ``"loss_coord"``, ``"loss_object"``, ``"loss_class"``, ``"total"``.
    """

    def __init__(
        self,
        coord_scale: float = 5.0,
        no_object_scale: float = 0.5,
        side: int = 7,
        boxes: int = 2,
    ):
        super().__init__()
        self.coord_scale, self.no_object_scale, self.side, self.boxes = coord_scale, no_object_scale, side, boxes

    def forward(self, outputs, targets):
        classes, present, found = parts_of(outputs, self.side, self.boxes)
        dtype, device, cells = outputs.dtype, outputs.device, self.side**2
        boxes = targets["boxes"].to(dtype) / (STRIDE * self.side)
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2 * self.side, boxes[..., 2:] - boxes[..., :2]
        valid = targets["valid"] & (size >= LEAST_SIZE).all(-1)
        size = torch.where(valid[..., None], size, 1.0)
        cell = torch.floor(centre)
        place = (cell[..., 1] * self.side + cell[..., 0]).long()
        here = (torch.arange(cells, device=device) == place[..., None]) & valid[..., None]  # (N, M, S S)
        slots, none = torch.arange(boxes.shape[1], device=device)[:, None], boxes.shape[1]
        matched = torch.where(here, slots, none).amin(1)  # (N, S S), the first of several objects
        positive = matched < none
        matched = torch.where(positive, matched, 0)

        wanted = take_rows(torch.cat((centre - cell, size), -1), matched)[:, :, None]  # (N, S S, 1, 4)
        fixed = found.detach()  # mirror: gradients are cut
        fixed, goal = (
            torch.cat((x[..., :2] / self.side, y), -1)
            for x, y in ((fixed, fixed[..., 2:] ** 2), (wanted, wanted[..., 2:]))
        )
        overlap = paired_iou(corners(fixed), corners(goal), 1e-12)  # (N, S S, B)
        nearest = argmax(-(fixed - goal).square().sum(-1))
        best = torch.where(overlap.amax(-1) > 0, argmax(overlap), nearest)
        mine = (torch.arange(self.boxes, device=device) == best[..., None]) & positive[..., None]

        place = (found[..., :2] - wanted[..., :2]).square() + (found[..., 2:] - wanted[..., 2:].sqrt()).square()
        weight = torch.where(mine, 1.0, self.no_object_scale).to(dtype)
        labels = take_rows(targets["labels"], matched)
        one_hot = (torch.arange(classes.shape[-1], device=device) == labels[..., None]).to(dtype)
        losses = {
            "loss_coord": self.coord_scale * torch.where(mine[..., None], place, 0.0).sum(),
            "loss_object": (weight * (present - torch.where(mine, overlap, 0.0)).square()).sum(),
            "loss_class": torch.where(positive[..., None], (classes - one_hot).square(), 0.0).sum(),
        }
        losses = {key: loss / 2 / outputs.shape[0] for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


class YOLOV1PostProcess(nn.Module):
    """The best boxes of every image, scored by the probability of an object times that of a class, suppressed by class.

    Args:
        score_threshold: pairs of box and class of at most this score are dropped.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        side, boxes: see :class:`YOLOV1`.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.5,
        detections: int = 100,
        side: int = 7,
        boxes: int = 2,
    ):
        super().__init__()
        self.score_threshold, self.iou_threshold, self.detections = score_threshold, iou_threshold, detections
        self.side, self.boxes = side, boxes

    def forward(self, outputs):
        classes, present, found = parts_of(outputs, self.side, self.boxes)
        corner = torch.from_numpy(grid_points((self.side, self.side), 1, 0.0)).to(found)[:, None]
        found = torch.cat(((found[..., :2] + corner) / self.side, found[..., 2:].square()), -1)
        boxes = (corners(found) * STRIDE * self.side).flatten(1, 2)
        count, kinds = boxes.shape[1], classes.shape[2]
        scores = (present[..., None] * classes[:, :, None]).flatten(1)
        scores, pairs = top_k(scores, count * kinds)
        index = torch.div(pairs, kinds, rounding_mode="floor")
        labels, valid, boxes = pairs - index * kinds, scores > self.score_threshold, take_rows(boxes, index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov1_local_criterion(boxes: int = 3, **options) -> YOLOV1Criterion:
    return YOLOV1Criterion(boxes=boxes, **options)


def yolov1_local_postprocess(boxes: int = 3, **options) -> YOLOV1PostProcess:
    return YOLOV1PostProcess(boxes=boxes, **options)


def trunk(kind: str, width: float) -> list[tuple]:
    """The rows of the 24 convolutions of ``kind``, with ``width`` times the published channels."""
    return [("max",) if row is None else (kind, int(row[0] * width), *row[1:]) for row in TRUNK]


def yolov1(
    width: float = 1.0,
    hidden: tuple[int, ...] = (4096,),
    side: int = 7,
    num_classes: int = 20,
    boxes: int = 2,
    drop: float = 0.5,
) -> YOLOV1:
    """The network of the paper."""
    rows = trunk("biased", width) + [("dense", units) for units in hidden]
    return YOLOV1((*rows, ("dropout", drop), ("plain", side**2 * (num_classes + 5 * boxes))), side)


def yolov1_small(hidden: tuple[int, ...] = (512, 4096), **options) -> YOLOV1:
    return yolov1(hidden=hidden, **options)


def yolov1_local(width: float = 1.0, side: int = 7, num_classes: int = 20, boxes: int = 3, drop: float = 0.5) -> YOLOV1:
    """darknet's later configuration: normalisation, and a local layer instead of a fully connected one."""
    rows = [*trunk("conv", width), ("local", int(256 * width)), ("dropout", drop)]
    return YOLOV1((*rows, ("plain", side**2 * (num_classes + 5 * boxes))), side)


def yolov1_tiny(width: float = 1.0, side: int = 7, num_classes: int = 20, boxes: int = 2) -> YOLOV1:
    rows = []
    for channels in (16, 32, 64, 128, 256, 512):
        rows += [("conv", int(channels * width), 3, 1), ("max",)]
    rows += [("conv", int(1024 * width), 3, 1), ("conv", int(256 * width), 3, 1)]
    return YOLOV1((*rows, ("plain", side**2 * (num_classes + 5 * boxes))), side)
