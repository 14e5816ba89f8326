"""YOLOv5: cross-stage partial blocks, a pyramid with top-down and bottom-up paths, and objects assigned to neighbouring
cells too.

ultralytics/yolov5, releases 6.0 to 7.0, 2020 to 2022; no paper. "CSPNet", 2019, arXiv:1911.11929; "Path Aggregation
Network", 2018, arXiv:1803.01534.
Parameter names: ultralytics/yolov5 ``models/yolo.py``, ``models/common.py`` (AGPL-3.0; facts only, no code).
What to look at: an object belongs to the cell of its centre and to the two nearest neighbours; the target of an
anchor's objectness is the overlap of its own prediction.

Mirror notes:
- NHWC here, NCHW in PyTorch: the head's maps are transposed before they are split into anchors there.
- PyTorch adds to the biases of finished layers, Keras gives each layer its initial values.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.points import grid_points
from tf_impl.boxes.results import results
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box_iou import complete_iou
from tf_impl.losses.dense import binary_cross_entropy

__all__ = [
    "YOLOV5",
    "YOLOV5Criterion",
    "YOLOV5PostProcess",
    "yolov5l",
    "yolov5m",
    "yolov5n",
    "yolov5s",
    "yolov5x",
]

LEVELS = ("p3", "p4", "p5")
STRIDES = (8, 16, 32)
ANCHORS = (  # width and height in pixels, by level
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
BALANCE = (4.0, 1.0, 0.4)  # of the levels, in the loss of objects
NEIGHBOURS = ((0, 0), (0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5))  # offsets subtracted from a centre: none, left, up, ...


@keras.saving.register_keras_serializable("diptych", "yolov5.Conv")
class Conv(keras.layers.Layer):
    """Convolution that keeps the size at stride 1, batch normalisation, SiLU.

    Args:
        filters, kernel_size, strides: of the convolution.
        padding: None for half the kernel.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters).
    """

    def __init__(self, filters: int, kernel_size: int = 1, strides: int = 1, padding: int | None = None, **kwargs):
        super().__init__(**kwargs)
        padding = kernel_size // 2 if padding is None else padding
        self.conv = Conv2D(filters, kernel_size, strides=strides, padding=padding, use_bias=False)
        self.bn = BatchNormalization(epsilon=1e-3, momentum=0.97)

    def call(self, x, training=False):
        return tf.nn.silu(self.bn(self.conv(x), training=training))


@keras.saving.register_keras_serializable("diptych", "yolov5.Bottleneck")
class Bottleneck(keras.layers.Layer):
    """1x1 and 3x3 convolution, and an optional shortcut.  (N, H, W, C) -> the same shape."""

    def __init__(self, channels: int, shortcut: bool, **kwargs):
        super().__init__(**kwargs)
        self.shortcut = shortcut
        self.cv1 = Conv(channels)
        self.cv2 = Conv(channels, 3)

    def call(self, x, training=False):
        y = self.cv2(self.cv1(x, training=training), training=training)
        return x + y if self.shortcut else y


@keras.saving.register_keras_serializable("diptych", "yolov5.C3")
class C3(keras.layers.Layer):
    """Cross-stage partial block: one half of the channels passes bottlenecks, the other bypasses them.

    Args:
        filters: width of the result.
        depth: bottlenecks.
        shortcut: whether these have shortcuts.

    Inputs: (N, H, W, C).  Returns: (N, H, W, filters).
    """

    def __init__(self, filters: int, depth: int, shortcut: bool = True, **kwargs):
        super().__init__(**kwargs)
        half = filters // 2
        self.cv1 = Conv(half)
        self.cv2 = Conv(half)
        self.cv3 = Conv(filters)
        self.m = [Bottleneck(half, shortcut) for _ in range(depth)]

    def call(self, x, training=False):
        y = self.cv1(x, training=training)
        for block in self.m:
            y = block(y, training=training)
        return self.cv3(tf.concat((y, self.cv2(x, training=training)), -1), training=training)


@keras.saving.register_keras_serializable("diptych", "yolov5.SPPF")
class SPPF(keras.layers.Layer):
    """A chain of three poolings of size 5, concatenated.  (N, H, W, C) -> the same shape."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.cv1 = Conv(channels // 2)
        self.cv2 = Conv(channels)

    def call(self, x, training=False):
        found = [self.cv1(x, training=training)]
        for _ in range(3):
            found.append(max_pool2d(found[-1], 5, 1, 2))
        return self.cv2(tf.concat(found, -1), training=training)


@keras.saving.register_keras_serializable("diptych", "yolov5.Detect")
class Detect(keras.layers.Layer):
    """A 1x1 convolution of every level.

    Args:
        num_classes: classes K.

    Inputs: list of maps (N, H, W, C).
    Returns: list of (N, A, H, W, 5 + K): x, y, w, h, object, classes, as logits.
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        # not used: checkpoints contain the anchors in strides
        self.anchors = self.add_weight(
            name="anchors",
            shape=(len(LEVELS), 3, 2),
            initializer=lambda shape, dtype: tf.constant(relative_anchors(), dtype),
            trainable=False,
        )
        columns = 3 * (5 + num_classes)
        self.m = [Conv2D(columns, 1, bias_initializer=_ShiftedUniform(stride, num_classes)) for stride in STRIDES]

    def build(self, input_shape):
        for conv, shape in zip(self.m, input_shape):
            conv.bias_initializer.bound = shape[-1] ** -0.5
            conv.build(shape)

    def call(self, maps):
        found = []
        for x, conv in zip(maps, self.m):
            _, h, w, _ = x.shape
            # mirror: transposed
            y = tf.reshape(conv(x), (-1, h, w, 3, 5 + self.num_classes))
            found.append(tf.transpose(y, (0, 3, 1, 2, 4)))
        return found


class _ShiftedUniform(keras.initializers.Initializer):
    """PyTorch's initial values of a bias, to which those of :func:`initial_bias` are added."""

    def __init__(self, stride: int, num_classes: int, bound: float = 1.0):
        self.stride, self.num_classes, self.bound = stride, num_classes, bound

    def __call__(self, shape, dtype=None):
        values = keras.initializers.RandomUniform(-self.bound, self.bound)(shape, dtype)
        return values + tf.constant(initial_bias(self.stride, self.num_classes), values.dtype)  # mirror: adds to

    def get_config(self):
        return {"stride": self.stride, "num_classes": self.num_classes, "bound": self.bound}


def relative_anchors() -> np.ndarray:
    """Widths and heights in strides.  (levels, A, 2) float64."""
    return np.array(ANCHORS, np.float64) / np.array(STRIDES)[:, None, None]


def initial_bias(stride: int, num_classes: int) -> np.ndarray:
    """Initial bias for eight objects per 640-pixel image, and a small probability for every class.  (A (5 + K),)."""
    bias = np.zeros((3, 5 + num_classes))
    bias[:, 4] = math.log(8 / (640 / stride) ** 2)
    bias[:, 5:] = math.log(0.6 / (num_classes - 0.99999))
    return bias.reshape(-1)


def doubled(x):
    """Every pixel four times.  (N, H, W, C) -> (N, 2 H, 2 W, C)."""
    return resize_nearest(x, (2 * x.shape[1], 2 * x.shape[2]))


@keras.saving.register_keras_serializable("diptych", "yolov5.YOLOV5")
class YOLOV5(Model):
    """Trunk, neck and head as one list, whose layers have the indices of the configuration file.

    Args:
        depth: multiplier of the bottlenecks.
        width: multiplier of the channels, which are rounded up to multiples of 8.
        num_classes: classes K.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p3"``, ``"pred_p4"``, ``"pred_p5"`` (N, A, H / s, W / s, 5 + K) of strides s 8, 16, 32: x, y,
        w, h, object, classes of every anchor, as logits.
    """

    def __init__(self, depth: float = 0.33, width: float = 0.5, num_classes: int = 80, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        c = [math.ceil(n * width / 8) * 8 for n in (64, 128, 256, 512, 1024)]
        n = [max(round(n * depth), 1) for n in (3, 6, 9)]
        self.model = [
            Conv(c[0], 6, 2, 2),
            Conv(c[1], 3, 2),
            C3(c[1], n[0]),
            Conv(c[2], 3, 2),
            C3(c[2], n[1]),
            Conv(c[3], 3, 2),
            C3(c[3], n[2]),
            Conv(c[4], 3, 2),
            C3(c[4], n[0]),
            SPPF(c[4]),
            Conv(c[3]),
            keras.layers.Identity(),  # 11: doubled
            keras.layers.Identity(),  # 12: with 6
            C3(c[3], n[0], False),
            Conv(c[2]),
            keras.layers.Identity(),  # 15: doubled
            keras.layers.Identity(),  # 16: with 4
            C3(c[2], n[0], False),
            Conv(c[2], 3, 2),
            keras.layers.Identity(),  # 19: with 14
            C3(c[3], n[0], False),
            Conv(c[3], 3, 2),
            keras.layers.Identity(),  # 22: with 10
            C3(c[4], n[0], False),
            Detect(num_classes),
        ]

    def call(self, images, training=False):
        def layer(i, x):
            return self.model[i](x, training=training)

        x, found = images, {}
        for i in range(11):
            x = found[i] = layer(i, x)
        x = layer(13, tf.concat((doubled(x), found[6]), -1))
        found[14] = layer(14, x)
        p3 = layer(17, tf.concat((doubled(found[14]), found[4]), -1))
        p4 = layer(20, tf.concat((layer(18, p3), found[14]), -1))
        p5 = layer(23, tf.concat((layer(21, p4), found[10]), -1))
        return {f"pred_{level}": x for level, x in zip(LEVELS, self.model[24]((p3, p4, p5)))}


@keras.saving.register_keras_serializable("diptych", "yolov5.YOLOV5Criterion")
class YOLOV5Criterion(keras.layers.Layer):
    """Complete IoU of the boxes, cross-entropies of objects and classes.

    An anchor matches an object if their widths and heights differ by less than the factor ``anchor_ratio``. It counts
    in the cell of the object's centre, in the nearer of the left and right neighbours, and in the nearer of the upper
    and lower ones.

    Args:
        box_gain, object_gain, class_gain: weights of the three losses.
        anchor_ratio: as above.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"box"``, ``"obj"``, ``"cls"``, with their gains, and ``"total"``, their sum times the
        size of the batch.
    """

    def __init__(
        self,
        box_gain: float = 0.05,
        object_gain: float = 1.0,
        class_gain: float = 0.5,
        anchor_ratio: float = 4.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.box_gain, self.object_gain, self.class_gain = box_gain, object_gain, class_gain
        self.anchor_ratio = anchor_ratio

    def call(self, outputs, targets):
        box = objects = classes = 0.0
        for i, level in enumerate(LEVELS):
            found = self._of_level(outputs[f"pred_{level}"], targets, i)
            box, objects, classes = box + found[0], objects + BALANCE[i] * found[1], classes + found[2]
        losses = {
            "box": self.box_gain * box,
            "obj": self.object_gain * objects,
            "cls": self.class_gain * classes,
        }
        return {**losses, "total": sum(losses.values()) * tf.cast(tf.shape(outputs["pred_p3"])[0], box.dtype)}

    def _of_level(self, found, targets, level):
        """Means: of 1 - CIoU of the matches, of the objects' cross-entropy, of the classes' of the matches."""
        _, count, height, width, columns = found.shape
        most, dtype = targets["boxes"].shape[1], found.dtype
        anchors = tf.constant(relative_anchors()[level], dtype)  # (A, 2)
        boxes = tf.cast(targets["boxes"], dtype) / STRIDES[level]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]  # (N, M, 2)
        valid = targets["valid"] & tf.reduce_all(size > 0, -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))

        ratio = size[:, None] / anchors[:, None]  # (N, A, M, 2)
        fits = tf.reduce_max(tf.maximum(ratio, 1 / ratio), -1) < self.anchor_ratio
        limit = tf.constant([width, height], dtype)
        rest = limit - centre
        near = [(x - tf.floor(x) < 0.5) & (x > 1) for x in (centre, rest)]  # (N, M, 2)
        sides = tf.stack(
            (tf.ones_like(valid), *tf.unstack(near[0], 2, -1), *tf.unstack(near[1], 2, -1)), 1
        )  # (N, 5, M)
        mine = sides[:, :, None] & (fits & valid[:, None])[:, None]  # (N, 5, A, M)
        offsets = tf.constant(NEIGHBOURS, dtype)
        toward = centre[:, None] - offsets[:, None]  # (N, 5, M, 2)
        cell = tf.where(toward < 0, tf.math.ceil(toward), tf.floor(toward))
        cell = tf.minimum(tf.maximum(cell, 0.0), limit - 1)

        # all candidates in one row, ordered so that the last of those at one anchor counts
        anchor = tf.range(count, dtype=tf.int64)[:, None]
        row, column = (tf.cast(cell[..., i], tf.int64)[:, :, None] for i in (1, 0))
        candidates = 5 * count * most
        index = tf.reshape((anchor * height + row) * width + column, (-1, candidates))
        mine = tf.reshape(mine, (-1, candidates))
        wanted = tf.concat((centre[:, None] - cell, tf.repeat(size[:, None], 5, 1)), -1)
        wanted = tf.reshape(tf.repeat(wanted[:, :, None], count, 2), (-1, candidates, 4))
        labels = tf.repeat(tf.repeat(targets["labels"][:, None, None], 5, 1), count, 2)
        labels = tf.reshape(labels, (-1, candidates))
        shape = tf.reshape(tf.repeat(tf.repeat(anchors[None, :, None], 5, 0), most, 2), (candidates, 2))

        total = count * height * width
        cells = tf.reshape(found, (-1, total, columns))
        chosen = take_rows(cells, index)
        place = 2 * tf.sigmoid(chosen[..., :2]) - 0.5
        extent = tf.square(2 * tf.sigmoid(chosen[..., 2:4])) * shape
        one, zero = tf.ones([], dtype), tf.zeros([], dtype)
        predicted = tf.where(mine[..., None], tf.concat((place, extent), -1), one)
        overlap = complete_iou(predicted, tf.where(mine[..., None], wanted, one))
        matches = tf.maximum(tf.reduce_sum(tf.cast(mine, dtype)), 1.0)
        box = tf.reduce_sum(tf.where(mine, 1 - overlap, zero)) / matches

        kinds = tf.range(columns - 5, dtype=labels.dtype)
        one_hot = tf.cast(labels[..., None] == kinds, dtype)
        losses = tf.reduce_sum(binary_cross_entropy(chosen[..., 5:], one_hot), -1)
        classes = tf.reduce_sum(tf.where(mine, losses, zero)) / (matches * (columns - 5))
        if columns == 6:
            classes = classes * 0.0

        # an anchor takes the overlap of its last match; the others write to a cell that is cut off
        later = tf.constant(np.triu(np.ones((candidates, candidates), bool), 1))
        beaten = tf.reduce_any((index[:, :, None] == index[:, None]) & mine[:, None] & later, 2)
        slot = tf.where(mine & ~beaten, index, tf.constant(total, index.dtype))
        share = tf.maximum(tf.stop_gradient(overlap), 0.0)  # mirror: gradients are cut
        batch = tf.shape(found, out_type=tf.int64)[0]
        image = tf.repeat(tf.range(batch)[:, None], candidates, 1)
        present = tf.scatter_nd(tf.stack((image, slot), -1), share, (batch, total + 1))
        present = tf.ensure_shape(present, (None, total + 1))[:, :-1]
        return box, tf.reduce_mean(binary_cross_entropy(cells[..., 4], present)), classes


@keras.saving.register_keras_serializable("diptych", "yolov5.YOLOV5PostProcess")
class YOLOV5PostProcess(keras.layers.Layer):
    """The best boxes of every image, with the most probable class of each anchor, suppressed by class.

    Args:
        score_threshold: anchors whose probability of an object, alone or times its class's, is at most this are
            dropped.
        candidates: anchors kept.
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
        detections: int = 300,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def decode(self, outputs):
        """All anchors, level by level.  (N, P, 5 + K): x, y, w, h in pixels, probabilities of object and classes."""
        found = []
        for i, level in enumerate(LEVELS):
            x = tf.sigmoid(outputs[f"pred_{level}"])
            _, count, height, width, columns = x.shape
            corner = tf.constant(grid_points((height, width), 1, 0.0).reshape(height, width, 2), x.dtype)
            anchors = tf.constant(ANCHORS[i], x.dtype)[:, None, None]
            centre = (2 * x[..., :2] + corner - 0.5) * STRIDES[i]
            x = tf.concat((centre, tf.square(2 * x[..., 2:4]) * anchors, x[..., 4:]), -1)
            found.append(tf.reshape(x, (-1, count * height * width, columns)))
        return tf.concat(found, 1)

    def call(self, outputs):
        found = self.decode(outputs)
        centre, half, present = found[..., :2], found[..., 2:4] / 2, found[..., 4]
        boxes, scores = tf.concat((centre - half, centre + half), -1), found[..., 5:] * present[..., None]
        labels, scores = argmax(scores), tf.reduce_max(scores, -1)
        scores = tf.where(present > self.score_threshold, scores, -1.0)
        scores, index = top_k(scores, min(self.candidates, scores.shape[1]))
        boxes, labels, valid = take_rows(boxes, index), take_rows(labels, index), scores > self.score_threshold
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov5n(depth: float = 0.33, width: float = 0.25, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5s(depth: float = 0.33, width: float = 0.5, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5m(depth: float = 0.67, width: float = 0.75, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5l(depth: float = 1.0, width: float = 1.0, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)


def yolov5x(depth: float = 1.33, width: float = 1.25, **options) -> YOLOV5:
    return YOLOV5(depth, width, **options)
