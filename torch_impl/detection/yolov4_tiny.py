"""YOLOv4-tiny: stages that send half of their channels through further convolutions, and two maps of anchors.

"YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, arXiv:2004.10934; "Scaled-YOLOv4: Scaling Cross Stage
Partial Network", 2020, arXiv:2011.08036.
Parameter names: AlexeyAB/darknet ``cfg/yolov4-tiny.cfg`` (YOLO licence), see ``_darknet.py``; losses: its
``src/yolo_layer.c``, whose gradients of objects and classes are those of these losses; it computes those of boxes
differently.
What to look at: an object may belong to several anchors, and the middle anchor of the list belongs to both maps.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch
from torch import nn

from torch_impl.boxes.centres import area, corners
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.results import results
from torch_impl.detection._darknet import DarknetConv
from torch_impl.detection.yolov3 import LEVELS, STRIDES, rows_of
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.pooling import max_pool2d
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box_iou import complete_iou
from torch_impl.losses.dense import binary_cross_entropy

__all__ = ["YOLOV4Tiny", "YOLOV4TinyCriterion", "YOLOV4TinyPostProcess", "yolov4_tiny"]

SHAPES = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))  # width and height of anchors in pixels
KINDS = ((3, 4, 5), (1, 2, 3))  # which of them the maps have, from coarse to fine
ANCHORS = tuple(tuple(SHAPES[kind] for kind in kinds) for kinds in KINDS)
SCALE = 1.05  # of the centres' sigmoids around the middle of the cell
STAGES = (2, 10, 18)  # indices of the first layers


class YOLOV4Tiny(nn.Module):
    """The network of the configuration file.

    Args:
        width: share of the published channels.
        num_classes: classes K.

    Inputs: (N, 3, H, W) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"`` (N, A (5 + K), H', W'): of every anchor x, y, w, h, object, classes.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 80):
        super().__init__()
        layers = {0: (3, 32, 3, 2), 1: (32, 64, 3, 2)}
        for first, c in zip(STAGES, (64, 128, 256)):
            half = c // 2
            layers |= {first: (c, c, 3, 1), first + 2: (half, half, 3, 1), first + 3: (half, half, 3, 1)}
            layers |= {first + 5: (c, c, 1, 1)}
        layers |= {26: (512, 512, 3, 1), 27: (512, 256, 1, 1), 28: (256, 512, 3, 1), 29: 512}
        layers |= {32: (256, 128, 1, 1), 35: (384, 256, 3, 1), 36: 256}
        models, number = [], 0
        for i in range(max(layers) + 1):
            if i not in layers:
                models.append(nn.Identity())
                continue
            number += 1
            if isinstance(layers[i], int):
                models.append(DarknetConv(int(layers[i] * width), 3 * (5 + num_classes), 1, 1, number, plain=True))
            else:
                before, channels, *size = layers[i]
                before = before if i == 0 else int(before * width)
                models.append(DarknetConv(before, int(channels * width), *size, number))
        self.models = nn.ModuleList(models)

    def forward(self, images):
        x = images
        for i in (0, 1):
            x = self.models[i](x)
        for first in STAGES:
            x, middle = self._stage(x, first)
        deep = self.models[27](self.models[26](x))
        coarse = self.models[29](self.models[28](deep))
        x = self.models[32](deep)
        x = torch.cat((resize_nearest(x, map_size(middle)), middle), 1)
        return {"pred_p5": coarse, "pred_p4": self.models[36](self.models[35](x))}

    def _stage(self, x, first: int):
        """A stage's map at half the size and twice the width, and the map before concatenation."""
        whole, one, two, last = (self.models[first + i] for i in (0, 2, 3, 5))
        x = whole(x)
        y = one(x.chunk(2, 1)[1])
        y = last(torch.cat((two(y), y), 1))
        return max_pool2d(torch.cat((x, y), 1), 2, 2), y


def boxes_of(rows, anchors, stride):
    """Boxes from rows (N, P, 5 + K), anchors (P, 4) and strides (P,) -> (N, P, 4) centre and size in pixels."""
    middle, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    centre = middle + (torch.sigmoid(rows[..., :2]) - 0.5) * SCALE * stride[:, None]
    return torch.cat((centre, torch.exp(rows[..., 2:4]) * size), -1)


class YOLOV4TinyCriterion(nn.Module):
    """CIoU loss of boxes, cross-entropies of object and classes; sums divided by the batch's size.

    An object belongs to the anchor of the most similar shape in the cell of its centre, on every map that has this
    anchor, and to all others there that are similar enough. Where several objects share an anchor, all their boxes and
    classes count. Anchors whose prediction overlaps an object by more than ``threshold``, and that give some class more
    than 0.25, are not background.

    Args:
        threshold: as above.
        likeness: IoU of shapes from which on anchors other than the best belong to an object; 1 for none, 0.213 in
            the configuration of YOLOv4. If below 1, the losses of boxes are divided by the number of classes at their
            anchor.
        box_weight: of the CIoU loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_box"``, ``"loss_object"``, ``"loss_class"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.7, likeness: float = 1.0, box_weight: float = 0.07):
        super().__init__()
        self.threshold, self.likeness, self.box_weight = threshold, likeness, box_weight

    def forward(self, outputs, targets):
        rows, anchors, stride = rows_of(outputs, ANCHORS)
        dtype, device, count = rows.dtype, rows.device, rows.shape[1]
        boxes, labels = targets["boxes"].to(dtype), targets["labels"]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        sizes = [map_size(outputs[f"pred_{level}"]) for level in LEVELS[:2]]
        height, width = (STRIDES[0] * n for n in sizes[0])
        image = torch.tensor([width, height], dtype=dtype, device=device)
        valid = targets["valid"] & ((size > 0) & (centre >= 0) & (centre < image)).all(-1)
        size = torch.where(valid[..., None], size, 1.0)

        # (N, M, 6): which of the anchors in the cells of an object's centre are its own
        shapes, kinds = (torch.tensor(x, device=device) for x in (SHAPES, KINDS[0] + KINDS[1]))
        shapes = shapes.to(dtype)
        shared = area(torch.minimum(size[:, :, None], shapes))  # one corner in common
        alike = shared / (area(size)[..., None] + area(shapes) - shared)
        mine = kinds == argmax(alike)[..., None]
        if self.likeness < 1:
            mine = mine | (alike[..., kinds] > self.likeness)
        mine, places, begin = mine & valid[..., None], [], 0
        for (h, w), step in zip(sizes, STRIDES):
            cell = torch.floor(torch.where(valid[..., None], centre, 0.0) / step).long()
            places.append(begin + 3 * (cell[..., 1:] * w + cell[..., :1]) + torch.arange(3, device=device))
            begin += 3 * h * w
        index, mine = torch.cat(places, -1).flatten(1), mine.flatten(1)
        here = (torch.arange(count, device=device) == index[..., None]) & mine[..., None]  # (N, 6 M, P)
        positive = here.any(1)

        found = boxes_of(rows, anchors, stride)
        predicted = corners(found).detach()  # mirror: gradients are cut
        overlap = torch.where(valid[..., None], pairwise_iou(boxes, predicted), 0.0).amax(1)
        confident = torch.sigmoid(rows[..., 5:]).amax(-1) > 0.25
        background = ~(positive | ((overlap > self.threshold) & confident))

        one_hot = (torch.arange(rows.shape[-1] - 5, device=device) == labels[..., None]).to(dtype)  # (N, M, K)
        classes = here.to(dtype).transpose(1, 2) @ one_hot.repeat_interleave(6, 1)
        classes = torch.clamp(classes, max=1.0)
        relative = 1 / image.repeat(2)  # shapes are compared relative to the image, not in pixels
        wanted = torch.cat((centre, size), -1).repeat_interleave(6, 1) * relative
        losses = 1 - complete_iou(take_rows(found, index) * relative, torch.where(mine[..., None], wanted, 1.0))
        if self.likeness < 1:
            losses = losses / torch.clamp(take_rows(classes.sum(-1), index), min=1.0)
        present = binary_cross_entropy(rows[..., 4], positive.to(dtype))
        classes = binary_cross_entropy(rows[..., 5:], classes)
        losses = {
            "loss_box": self.box_weight * torch.where(mine, losses, 0.0).sum(),
            "loss_object": torch.where(positive | background, present, 0.0).sum(),
            "loss_class": torch.where(positive[..., None], classes, 0.0).sum(),
        }
        losses = {key: loss / rows.shape[0] for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


class YOLOV4TinyPostProcess(nn.Module):
    """The best boxes of every image, scored by the probability of an object times that of its class, suppressed by
    class.

    Args:
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
        score_threshold: float = 0.25,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def forward(self, outputs):
        rows, anchors, stride = rows_of(outputs, ANCHORS)
        scores = torch.sigmoid(rows[..., 4:5]) * torch.sigmoid(rows[..., 5:])
        classes = scores.shape[-1]
        scores, pairs = top_k(scores.flatten(1), min(self.candidates, scores.shape[1] * classes))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, valid = pairs - index * classes, scores > self.score_threshold
        boxes = take_rows(corners(boxes_of(rows, anchors, stride)), index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov4_tiny(width: float = 1.0, num_classes: int = 80) -> YOLOV4Tiny:
    return YOLOV4Tiny(width, num_classes)
