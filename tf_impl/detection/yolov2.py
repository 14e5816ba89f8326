"""YOLOv2: five anchors in each cell of one map, concatenated with a finer one.

"YOLO9000: Better, Faster, Stronger", 2016, arXiv:1612.08242.
Parameter names: darknet's configuration files, see ``_darknet.py``; losses: darknet ``src/region_layer.c``, whose
gradients are those of these losses, except that darknet omits the slope of the centres' sigmoid.

Mirror notes:
- NHWC here, NCHW in PyTorch: a map is transposed there before it becomes rows of anchors.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.centres import area, corners
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.points import grid_points
from tf_impl.boxes.results import results
from tf_impl.detection._darknet import DarknetLayers
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.dense import paired_iou

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


@keras.saving.register_keras_serializable("diptych")
class YOLOV2(DarknetLayers):
    """A network from one of darknet's configuration files.

    Args:
        rows: of the file, see :class:`DarknetLayers`; with one result.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: (N, H / 32, W / 32, A (5 + K)): of every anchor x, y, w, h, object, classes.
    """

    def __init__(self, rows: tuple[tuple, ...], **kwargs):
        super().__init__(rows, **kwargs)

    def call(self, images, training=False):
        return super().call(images, training)[0]


def decoded(x, anchors):
    """The map as rows of anchors.

    Args:
        x: of the model.
        anchors: widths and heights in cells.

    Returns:
        rows (N, H W A, 5 + K); boxes (N, H W A, 4), centre and size in cells; centres inside their cells (..., 2).
    """
    _, h, w, columns = x.shape
    # mirror: transposed
    rows = tf.reshape(x, (-1, h * w * len(anchors), columns // len(anchors)))
    corner = tf.constant(np.repeat(grid_points((h, w), 1, 0.0), len(anchors), 0), x.dtype)
    size = tf.constant(np.tile(anchors, (h * w, 1)), x.dtype)
    inside = tf.sigmoid(rows[..., :2])
    return rows, tf.concat((inside + corner, tf.exp(rows[..., 2:4]) * size), -1), inside


@keras.saving.register_keras_serializable("diptych")
class YOLOV2Criterion(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.anchors, self.threshold = tuple(anchors), threshold
        self.object_scale, self.rescore, self.prior_scale = object_scale, rescore, prior_scale

    def call(self, outputs, targets):
        height, width = map_size(outputs)
        rows, predicted, inside = decoded(outputs, self.anchors)
        dtype, count, cells = rows.dtype, len(self.anchors), rows.shape[1]
        boxes, zero = tf.cast(targets["boxes"], dtype) / STRIDE, tf.zeros([], dtype)
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & tf.reduce_all(size > 0, -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))

        anchors = tf.constant(self.anchors, dtype)
        shared = area(tf.minimum(size[:, :, None], anchors))  # (N, M, A), one corner in common
        likeness = shared / (area(size)[..., None] + area(anchors) - shared)
        cell = tf.floor(centre)
        row, column = (tf.cast(cell[..., i], tf.int64) for i in (1, 0))
        place = (row * width + column) * count + argmax(likeness)
        here = (tf.range(cells, dtype=tf.int64) == place[..., None]) & valid[..., None]  # (N, M, P)
        slots = tf.range(boxes.shape[1], dtype=tf.int64)[:, None]
        # (N, P), the last of several objects
        matched = tf.reduce_max(tf.where(here, slots, tf.constant(-1, tf.int64)), 1)
        positive = matched >= 0

        predicted = tf.stop_gradient(corners(predicted))  # mirror: gradients are cut
        overlap = tf.reduce_max(tf.where(valid[..., None], pairwise_iou(boxes, predicted), zero), 1)
        background = ~positive & (overlap <= self.threshold)
        wanted_box = tf.where(positive[..., None], take_rows(boxes, matched), predicted)
        goal = paired_iou(predicted, wanted_box, 1e-12) if self.rescore else tf.ones_like(overlap)
        present = tf.sigmoid(rows[..., 4])
        weight = tf.where(positive, tf.constant(self.object_scale, dtype), tf.cast(background, dtype))
        present = weight * tf.square(present - tf.where(positive, goal, zero))

        extent, shape = take_rows(size, matched), tf.tile(anchors, (height * width, 1))
        offset = inside - take_rows(centre - cell, matched)
        stretch = rows[..., 2:4] - tf.math.log(extent / shape)
        weight = 2 - area(extent) / (height * width)
        place = tf.reduce_sum(tf.square(offset) + tf.square(stretch), -1)
        place = tf.where(positive, weight * place, zero)
        drawn = tf.reduce_sum(tf.square(inside - 0.5) + tf.square(rows[..., 2:4]), -1)
        drawn = tf.where(positive, zero, drawn)
        labels = take_rows(targets["labels"], matched)
        classes = -tf.gather(tf.nn.log_softmax(rows[..., 5:]), labels, batch_dims=2)
        losses = {
            "loss_coord": tf.reduce_sum(place) / 2,
            "loss_object": tf.reduce_sum(present) / 2,
            "loss_class": tf.reduce_sum(tf.where(positive, classes, zero)),
            "loss_prior": self.prior_scale * tf.reduce_sum(drawn) / 2,
        }
        batch = tf.cast(tf.shape(rows)[0], dtype)
        losses = {key: loss / batch for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class YOLOV2PostProcess(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.anchors, self.score_threshold, self.candidates = tuple(anchors), score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def call(self, outputs):
        rows, boxes, _ = decoded(outputs, self.anchors)
        scores = tf.sigmoid(rows[..., 4:5]) * tf.nn.softmax(rows[..., 5:])
        count, classes = scores.shape[1:]
        scores, pairs = top_k(tf.reshape(scores, (-1, count * classes)), min(self.candidates, count * classes))
        index = pairs // classes
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
