"""YOLOv4: cross-stage partial trunk with Mish, spatial pyramid pooling, and a pyramid with top-down and bottom-up
paths.

"YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, arXiv:2004.10934.
Parameter names and losses: Tianxiaomo/pytorch-YOLOv4 ``models.py``, ``train.py`` (Apache-2.0); decoding of results:
AlexeyAB/darknet ``cfg/yolov4.cfg``, whose centres reach beyond their cells.

Mirror notes:
- NHWC here, NCHW in PyTorch: a map is transposed there before it becomes rows of anchors.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.centres import corners
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.points import grid_points
from tf_impl.boxes.results import results
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.mish import Mish
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box_iou import complete_iou
from tf_impl.losses.dense import binary_cross_entropy

__all__ = ["YOLOV4", "YOLOV4Criterion", "YOLOV4PostProcess", "yolov4"]

LEVELS = ("p3", "p4", "p5")
STRIDES = (8, 16, 32)
ANCHORS = (  # width and height in pixels, by level
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
SCALES = (1.2, 1.1, 1.05)  # of the centres' sigmoids around the middle of the cell


@keras.saving.register_keras_serializable("diptych", "yolov4.ConvUnit")
class ConvUnit(keras.layers.Layer):
    """Convolution that keeps the size at stride 1, batch normalisation, activation.

    Args:
        filters, kernel_size, strides: of the convolution.
        mish: Mish instead of a leaky ReLU of slope 0.1.
        plain: a bias instead of normalisation and activation.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters).
    """

    def __init__(
        self, filters: int, kernel_size: int, strides: int = 1, mish: bool = False, plain: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        conv = Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=plain)
        self.conv = [conv] if plain else [conv, BatchNormalization(), Mish() if mish else LeakyReLU(0.1)]

    def call(self, x, training=False):
        for layer in self.conv:
            x = layer(x, training=training) if isinstance(layer, BatchNormalization) else layer(x)
        return x


@keras.saving.register_keras_serializable("diptych", "yolov4.ResidualBlocks")
class ResidualBlocks(keras.layers.Layer):
    """Pairs of a 1x1 and a 3x3 convolution, each with a shortcut.  (N, H, W, C) -> the same shape."""

    def __init__(self, channels: int, depth: int, **kwargs):
        super().__init__(**kwargs)
        self.module_list = [[ConvUnit(channels, 1, mish=True), ConvUnit(channels, 3, mish=True)] for _ in range(depth)]

    def call(self, x, training=False):
        for first, second in self.module_list:
            x = x + second(first(x, training=training), training=training)
        return x


@keras.saving.register_keras_serializable("diptych", "yolov4.FirstStage")
class FirstStage(keras.layers.Layer):
    """The stem and the first stage, whose two branches are as wide as the stage.

    Args:
        filters: width of the stage.

    Inputs: (N, H, W, C).  Returns: (N, H / 2, W / 2, filters).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        half = filters // 2
        self.conv1 = ConvUnit(half, 3, mish=True)
        self.conv2 = ConvUnit(filters, 3, 2, mish=True)
        self.conv3 = ConvUnit(filters, 1, mish=True)
        self.conv4 = ConvUnit(filters, 1, mish=True)
        self.conv5 = ConvUnit(half, 1, mish=True)
        self.conv6 = ConvUnit(filters, 3, mish=True)
        self.conv7 = ConvUnit(filters, 1, mish=True)
        self.conv8 = ConvUnit(filters, 1, mish=True)

    def call(self, x, training=False):
        x = apply(self, x, 1, 2, training)
        y = self.conv4(x, training=training)
        y = self.conv7(y + apply(self, y, 5, 6, training), training=training)
        return self.conv8(tf.concat((y, self.conv3(x, training=training)), -1), training=training)


@keras.saving.register_keras_serializable("diptych", "yolov4.Stage")
class Stage(keras.layers.Layer):
    """A convolution that halves the map, and two branches of half the width, one of them with residual blocks.

    Args:
        filters: width.
        depth: residual blocks.

    Inputs: (N, H, W, C).  Returns: (N, H / 2, W / 2, filters).
    """

    def __init__(self, filters: int, depth: int, **kwargs):
        super().__init__(**kwargs)
        half = filters // 2
        self.conv1 = ConvUnit(filters, 3, 2, mish=True)
        self.conv2 = ConvUnit(half, 1, mish=True)
        self.conv3 = ConvUnit(half, 1, mish=True)
        self.resblock = ResidualBlocks(half, depth)
        self.conv4 = ConvUnit(half, 1, mish=True)
        self.conv5 = ConvUnit(filters, 1, mish=True)

    def call(self, x, training=False):
        x = self.conv1(x, training=training)
        y = self.resblock(self.conv3(x, training=training), training=training)
        y = self.conv4(y, training=training)
        return self.conv5(tf.concat((y, self.conv2(x, training=training)), -1), training=training)


def numbered(owner, first: int, widths: list[tuple[int, int]]) -> None:
    """Give an owner the convolutions ``conv{first}`` and so on, from (width, kernel size)."""
    for i, (width, kernel_size) in enumerate(widths, start=first):
        setattr(owner, f"conv{i}", ConvUnit(width, kernel_size))


def apply(owner, x, first: int, last: int, training):
    """Apply the convolutions ``conv{first}`` to ``conv{last}`` of an owner, one after the other."""
    for i in range(first, last + 1):
        x = getattr(owner, f"conv{i}")(x, training=training)
    return x


@keras.saving.register_keras_serializable("diptych", "yolov4.Neck")
class Neck(keras.layers.Layer):
    """Spatial pyramid pooling of the coarsest map, and the path down to the finest.

    Args:
        channels: C of the finest of the three maps; the others have 2 C and 4 C.

    Inputs: list of three maps (N, H, W, C), from fine to coarse.
    Returns: list of three maps of half the channels.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        a, b, c, d = channels // 2, channels, 2 * channels, 4 * channels
        numbered(self, 1, [(c, 1), (d, 3), (c, 1), (c, 1), (d, 3), (c, 1)])
        numbered(self, 7, [(b, 1), (b, 1), (b, 1), (c, 3), (b, 1), (c, 3), (b, 1)])
        numbered(self, 14, [(a, 1), (a, 1), (a, 1), (b, 3), (a, 1), (b, 3), (a, 1)])

    def call(self, maps, training=False):
        x = apply(self, maps[2], 1, 3, training)
        pooled = [max_pool2d(x, size, 1, size // 2) for size in (13, 9, 5)]
        coarse = apply(self, tf.concat((*pooled, x), -1), 4, 6, training)
        middle = self._joined(coarse, maps[1], 7, training)
        return [self._joined(middle, maps[0], 14, training), middle, coarse]

    def _joined(self, coarse, fine, first, training):
        up = resize_nearest(getattr(self, f"conv{first}")(coarse, training=training), map_size(fine))
        fine = getattr(self, f"conv{first + 1}")(fine, training=training)
        return apply(self, tf.concat((fine, up), -1), first + 2, first + 6, training)


@keras.saving.register_keras_serializable("diptych", "yolov4.Head")
class Head(keras.layers.Layer):
    """The path back to the coarsest map, and two convolutions for every map.

    Args:
        channels: C of the finest of the three maps; the others have 2 C and 4 C.
        columns: values per cell.

    Inputs: list of three maps, from fine to coarse.
    Returns: list of three maps (N, H, W, columns).
    """

    def __init__(self, channels: int, columns: int, **kwargs):
        super().__init__(**kwargs)
        b, c, d = 2 * channels, 4 * channels, 8 * channels
        self.conv1, self.conv2 = ConvUnit(b, 3), ConvUnit(columns, 1, plain=True)
        self.conv3 = ConvUnit(b, 3, 2)
        numbered(self, 4, [(b, 1), (c, 3), (b, 1), (c, 3), (b, 1), (c, 3)])
        self.conv10 = ConvUnit(columns, 1, plain=True)
        self.conv11 = ConvUnit(c, 3, 2)
        numbered(self, 12, [(c, 1), (d, 3), (c, 1), (d, 3), (c, 1), (d, 3)])
        self.conv18 = ConvUnit(columns, 1, plain=True)

    def call(self, maps, training=False):
        fine, middle, coarse = maps
        middle = apply(self, tf.concat((self.conv3(fine, training=training), middle), -1), 4, 8, training)
        coarse = apply(self, tf.concat((self.conv11(middle, training=training), coarse), -1), 12, 16, training)
        return [apply(self, x, first, first + 1, training) for x, first in ((fine, 1), (middle, 9), (coarse, 17))]


@keras.saving.register_keras_serializable("diptych", "yolov4.YOLOV4")
class YOLOV4(Model):
    """Trunk, neck and head.

    Args:
        depths: residual blocks of the second to fifth stage.
        width: channels of the first convolution; the first stage has twice as many, the last 32 times.
        num_classes: classes K.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p3"``, ``"pred_p4"``, ``"pred_p5"`` (N, H / s, W / s, A (5 + K)), strides s 8, 16, 32: x, y,
        w, h, object, classes of every anchor.
    """

    def __init__(self, depths: tuple[int, ...] = (2, 8, 8, 4), width: int = 32, num_classes: int = 80, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.down1 = FirstStage(2 * width)
        for i, depth in enumerate(depths):
            setattr(self, f"down{i + 2}", Stage(width * 2 ** (i + 2), depth))
        self.neck = Neck(8 * width)
        self.head = Head(4 * width, 3 * (5 + num_classes))

    def call(self, images, training=False):
        x, maps = images, []
        for i in range(1, 6):
            x = getattr(self, f"down{i}")(x, training=training)
            maps.append(x)
        found = self.head(self.neck(maps[2:], training=training), training=training)
        return {f"pred_{level}": x for level, x in zip(LEVELS, found)}


def rows_of(x):
    """A level's map as rows of anchors.  (N, H, W, A (5 + K)) -> (N, A, H * W, 5 + K)."""
    _, h, w, columns = x.shape
    return tf.transpose(tf.reshape(x, (-1, h * w, 3, columns // 3)), (0, 2, 1, 3))  # mirror: transposed


def decoded(rows, size: tuple[int, int], level: int, scale: float = 1.0):
    """Centres and sizes in cells.

    Args:
        rows: (N, A, H * W, 5 + K).
        size: H and W.
        level: index.
        scale: of the centres' sigmoids around the middle of the cell.

    Returns:
        (N, A, H * W, 4).
    """
    corner = tf.constant(grid_points(size, 1, 0.0), rows.dtype)
    anchors = tf.constant(np.array(ANCHORS[level]) / STRIDES[level], rows.dtype)[:, None]
    centre = tf.sigmoid(rows[..., :2]) * scale - (scale - 1) / 2 + corner
    return tf.concat((centre, tf.exp(rows[..., 2:4]) * anchors), -1)


@keras.saving.register_keras_serializable("diptych", "yolov4.YOLOV4Criterion")
class YOLOV4Criterion(keras.layers.Layer):
    """Cross-entropies of position, object and classes, squared errors of the sizes' logarithms; sums over the batch.

    An object belongs to the most similar of the nine anchors, in the cell of its centre. Anchors whose
    prediction overlaps an object by more than ``threshold`` are not background, on the levels that have an object.

    Args:
        threshold: as above.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding; of several objects at one anchor only the last one's box counts, but
        all their classes.
    Returns: dict of scalars: ``"loss_xy"``, ``"loss_wh"``, ``"loss_obj"``, ``"loss_cls"``, ``"total"``.
    """

    def __init__(self, threshold: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.threshold = threshold

    def call(self, outputs, targets):
        losses = dict.fromkeys(("loss_xy", "loss_wh", "loss_obj", "loss_cls"), 0.0)
        for level, name in enumerate(LEVELS):
            found = self._of_level(outputs[f"pred_{name}"], targets, level)
            losses = {key: losses[key] + loss for key, loss in zip(losses, found)}
        return {**losses, "total": sum(losses.values())}

    def _of_level(self, x, targets, level):
        height, width = map_size(x)
        rows = rows_of(x)  # (N, A, P, 5 + K)
        dtype, cells, columns = rows.dtype, height * width, rows.shape[-1]
        boxes = tf.cast(targets["boxes"], dtype) / STRIDES[level]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & tf.reduce_all(size > 0, -1)
        zero, size = tf.zeros([], dtype), tf.where(valid[..., None], size, tf.ones([], dtype))

        every = tf.constant(np.concatenate(ANCHORS) / STRIDES[level], dtype)
        likeness = complete_iou(*(tf.concat((s / 2, s), -1) for s in (size[:, :, None], every)), eps=1e-16)
        best = argmax(likeness)  # (N, M), of nine
        mine = valid & (best // 3 == level)
        cell = tf.floor(centre)
        place = tf.cast(cell[..., 1], tf.int64) * width + tf.cast(cell[..., 0], tf.int64)
        # (N, M, A, P): which anchor is an object's
        anchor = tf.range(3, dtype=tf.int64)[:, None] == (best - 3 * level)[..., None, None]
        here = anchor & (tf.range(cells, dtype=tf.int64) == place[..., None, None]) & mine[..., None, None]
        positive = tf.reduce_any(here, 1)  # (N, A, P)

        predicted = tf.stop_gradient(corners(decoded(rows, (height, width), level)))  # mirror: gradients are cut
        overlap = pairwise_iou(tf.reshape(predicted, (-1, 3 * cells, 4)), boxes)
        overlap = tf.reduce_max(tf.where(valid[:, None], overlap, zero), -1)
        overlap = tf.reshape(overlap, (-1, 3, cells))
        ignored = (overlap > self.threshold) & tf.reduce_any(mine, 1)[:, None, None]

        slots = tf.range(boxes.shape[1], dtype=tf.int64)[:, None, None]
        index = tf.reduce_max(tf.where(here, slots, tf.constant(-1, tf.int64)), 1)  # the last of several objects
        index = tf.reshape(index, (-1, 3 * cells))
        offset = tf.reshape(take_rows(centre - cell, index), (-1, 3, cells, 2))
        extent = tf.reshape(take_rows(size, index), (-1, 3, cells, 2))
        wanted = tf.math.log(extent / every[3 * level : 3 * level + 3, None] + 1e-16)
        weight = 2 - extent[..., 0] * extent[..., 1] / cells
        labels = targets["labels"]
        kinds = tf.range(columns - 5, dtype=labels.dtype) == labels[..., None]  # (N, M, K)
        flat = tf.reshape(tf.cast(here, dtype), (-1, boxes.shape[1], 3 * cells))
        classes = tf.minimum(tf.matmul(flat, tf.cast(kinds, dtype), transpose_a=True), 1.0)
        classes = tf.reshape(classes, (-1, 3, cells, columns - 5))

        def total(losses, mask):
            return tf.reduce_sum(tf.where(mask, losses, zero))

        present = binary_cross_entropy(rows[..., 4], tf.cast(positive, dtype))
        return (
            total(binary_cross_entropy(rows[..., :2], offset) * weight[..., None], positive[..., None]),
            total(tf.square(rows[..., 2:4] - wanted) * weight[..., None], positive[..., None]) / 2,
            total(present, positive | ~ignored),
            total(binary_cross_entropy(rows[..., 5:], classes), positive[..., None]),
        )


@keras.saving.register_keras_serializable("diptych", "yolov4.YOLOV4PostProcess")
class YOLOV4PostProcess(keras.layers.Layer):
    """The best boxes of every image, scored by the probability of an object times that of its class, suppressed by
    class.

    Args:
        score_threshold: pairs of anchor and class of at most this score are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        scales: by which the centres reach beyond their cells, by level.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.4,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        scales: tuple[float, ...] = SCALES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.scales = iou_threshold, detections, tuple(scales)

    def call(self, outputs):
        boxes, scores = [], []
        for i, level in enumerate(LEVELS):
            x = outputs[f"pred_{level}"]
            rows = rows_of(x)
            count = 3 * rows.shape[2]
            of_level = corners(decoded(rows, map_size(x), i, self.scales[i])) * STRIDES[i]
            boxes.append(tf.reshape(of_level, (-1, count, 4)))
            of_level = tf.sigmoid(rows[..., 5:]) * tf.sigmoid(rows[..., 4:5])
            scores.append(tf.reshape(of_level, (-1, count, rows.shape[-1] - 5)))
        boxes, scores = tf.concat(boxes, 1), tf.concat(scores, 1)
        count, classes = scores.shape[1:]
        scores, pairs = top_k(tf.reshape(scores, (-1, count * classes)), min(self.candidates, count * classes))
        index = pairs // classes
        labels, boxes, valid = pairs - index * classes, take_rows(boxes, index), scores > self.score_threshold
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov4(depths=(2, 8, 8, 4), **options) -> YOLOV4:
    return YOLOV4(depths=depths, **options)
