"""YOLOv1: one network sees the whole image and predicts a class and two boxes for each of 7 x 7 cells.

"You Only Look Once: Unified, Real-Time Object Detection", 2015, arXiv:1506.02640.
Parameter names: darknet's configuration files, see ``_darknet.py``; losses: darknet ``src/detection_layer.c``, whose
gradients are those of these losses.
What to look at: a fully connected layer returns all values at once, classes, then objects, then boxes, without sigmoid;
the boxes of a cell have no fixed shapes, and the better one is trained.

Mirror notes:
- NHWC here, NCHW in PyTorch: the inputs of a fully connected layer have PyTorch's order, after a transpose here.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
- Patches: PyTorch's ``unfold`` is here nine shifted maps.
"""

import math

import keras
import tensorflow as tf

from tf_impl.boxes.centres import corners
from tf_impl.boxes.points import grid_points
from tf_impl.boxes.results import results
from tf_impl.detection._darknet import DarknetConv
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.linear import Dense
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.dense import paired_iou

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


@keras.saving.register_keras_serializable("diptych")
class BiasedConv(DarknetConv):
    """Convolution with a bias, and leaky ReLU of slope 0.1; see :class:`DarknetConv`."""

    def __init__(self, filters: int, kernel_size: int, strides: int, number: int, **kwargs):
        super().__init__(filters, kernel_size, strides, number, plain=True, **kwargs)
        self.activation = LeakyReLU(0.1)

    def call(self, x, training=False):
        return self.activation(super().call(x, training))


@keras.saving.register_keras_serializable("diptych")
class LocalConv(keras.layers.Layer):
    """3x3 convolution with separate weights and biases at every position, and leaky ReLU of slope 0.1.

    Args:
        filters: width of the result.
        side: height and width S of the map.

    Inputs: (N, S, S, C).  Returns: (N, S, S, filters).
    """

    torch_names = {"kernel": ("weight", (0, 2, 1)), "bias": ("bias", (2, 0, 1))}

    def __init__(self, filters: int, side: int, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.side, self.activation = filters, side, LeakyReLU(0.1)

    def build(self, input_shape):
        channels = input_shape[-1]
        bound = math.sqrt(2 / (9 * channels))
        initial = keras.initializers.RandomUniform(-bound, bound)
        shape = (self.side**2, 9 * channels, self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initial)
        self.bias = self.add_weight(name="bias", shape=(self.side, self.side, self.filters), initializer="zeros")

    def call(self, x):
        side, channels = self.side, x.shape[-1]
        padded = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
        patches = tf.reshape(tf.stack(shifts, -1), (-1, side * side, 9 * channels))  # mirror: Patches
        y = tf.transpose(tf.matmul(tf.transpose(patches, (1, 0, 2)), self.kernel), (1, 0, 2))
        return self.activation(tf.reshape(y, (-1, side, side, self.filters)) + self.bias)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "side": self.side}


@keras.saving.register_keras_serializable("diptych")
class Connected(Dense):
    """Fully connected layer over all values of a map or row.  (N, ...) -> (N, units).

    Args:
        units: width of the result.
        leaky: whether a leaky ReLU of slope 0.1 follows.
    """

    def __init__(self, units: int, leaky: bool, **kwargs):
        super().__init__(units, **kwargs)
        self.leaky = LeakyReLU(0.1) if leaky else None

    def build(self, input_shape):
        super().build((None, math.prod(input_shape[1:])))
        self.input_spec = None  # of rows; a map is flattened to one

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.units

    def call(self, x):
        if len(x.shape) == 4:
            x = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, math.prod(x.shape[1:])))  # mirror: a transpose
        y = super().call(x)
        return y if self.leaky is None else self.leaky(y)

    def get_config(self):
        return {**super().get_config(), "leaky": self.leaky is not None}


@keras.saving.register_keras_serializable("diptych")
class YOLOV1(Model):
    """A network from one of darknet's configuration files.

    Args:
        rows: ("conv", width, kernel size, stride), with normalisation and leaky ReLU; ("biased", ...), the same with a
            bias instead of the normalisation; ("max",), of 2 x 2; ("local", width); ("dropout", rate); ("dense",
            width), with leaky ReLU; ("plain", width), fully connected without.
        side: cells S per row and column.

    Inputs: (N, 64 S, 64 S, 3) float in [0, 1].
    Returns: (N, S S (K + 5 B)): probabilities of the classes cell by cell, those of an object box by box, then x and y
        inside the cell and the square roots of width and height in images, box by box.
    """

    def __init__(self, rows: tuple[tuple, ...], side: int = 7, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={1: STRIDE * side, 2: STRIDE * side, 3: 3})
        models, number = [], 0
        for kind, *values in rows:
            if kind in ("conv", "biased"):
                number += 1
                models.append((DarknetConv if kind == "conv" else BiasedConv)(*values, number))
            elif kind == "max":
                models.append(keras.layers.MaxPooling2D(2))
            elif kind == "local":
                models.append(LocalConv(*values, side))
            elif kind == "dropout":
                models.append(keras.layers.Dropout(*values))
            else:
                models.append(Connected(*values, kind == "dense"))
        self.models = keras.Sequential(models)

    def call(self, images, training=False):
        return self.models(images, training=training)


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
    first, second, last = tf.split(predictions, (cells * classes, cells * boxes, cells * boxes * 4), 1)
    return (
        tf.reshape(first, (-1, cells, classes)),
        tf.reshape(second, (-1, cells, boxes)),
        tf.reshape(last, (-1, cells, boxes, 4)),
    )


@keras.saving.register_keras_serializable("diptych")
class YOLOV1Criterion(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.coord_scale, self.no_object_scale, self.side, self.boxes = coord_scale, no_object_scale, side, boxes

    def call(self, outputs, targets):
        classes, present, found = parts_of(outputs, self.side, self.boxes)
        dtype, zero, cells = outputs.dtype, tf.zeros([], outputs.dtype), self.side**2
        boxes = tf.cast(targets["boxes"], dtype) / (STRIDE * self.side)
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2 * self.side, boxes[..., 2:] - boxes[..., :2]
        valid = targets["valid"] & tf.reduce_all(size >= LEAST_SIZE, -1)
        size = tf.where(valid[..., None], size, tf.ones([], dtype))
        cell = tf.floor(centre)
        place = tf.cast(cell[..., 1] * self.side + cell[..., 0], tf.int64)
        here = (tf.range(cells, dtype=tf.int64) == place[..., None]) & valid[..., None]  # (N, M, S S)
        slots, none = tf.range(boxes.shape[1], dtype=tf.int64)[:, None], tf.constant(boxes.shape[1], tf.int64)
        matched = tf.reduce_min(tf.where(here, slots, none), 1)  # (N, S S), the first of several objects
        positive = matched < none
        matched = tf.where(positive, matched, tf.zeros_like(matched))

        wanted = take_rows(tf.concat((centre - cell, size), -1), matched)[:, :, None]  # (N, S S, 1, 4)
        fixed = tf.stop_gradient(found)  # mirror: gradients are cut
        fixed, goal = (
            tf.concat((x[..., :2] / self.side, y), -1)
            for x, y in ((fixed, fixed[..., 2:] ** 2), (wanted, wanted[..., 2:]))
        )
        overlap = paired_iou(corners(fixed), corners(goal), 1e-12)  # (N, S S, B)
        nearest = argmax(-tf.reduce_sum(tf.square(fixed - goal), -1))
        best = tf.where(tf.reduce_max(overlap, -1) > 0, argmax(overlap), nearest)
        mine = (tf.range(self.boxes, dtype=tf.int64) == best[..., None]) & positive[..., None]

        place = tf.square(found[..., :2] - wanted[..., :2]) + tf.square(found[..., 2:] - tf.sqrt(wanted[..., 2:]))
        weight = tf.where(mine, tf.ones([], dtype), tf.constant(self.no_object_scale, dtype))
        labels = take_rows(targets["labels"], matched)
        one_hot = tf.cast(tf.range(classes.shape[-1], dtype=labels.dtype) == labels[..., None], dtype)
        losses = {
            "loss_coord": self.coord_scale * tf.reduce_sum(tf.where(mine[..., None], place, zero)),
            "loss_object": tf.reduce_sum(weight * tf.square(present - tf.where(mine, overlap, zero))),
            "loss_class": tf.reduce_sum(tf.where(positive[..., None], tf.square(classes - one_hot), zero)),
        }
        batch = tf.cast(tf.shape(outputs)[0], dtype)
        losses = {key: loss / 2 / batch for key, loss in losses.items()}
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class YOLOV1PostProcess(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.iou_threshold, self.detections = score_threshold, iou_threshold, detections
        self.side, self.boxes = side, boxes

    def call(self, outputs):
        classes, present, found = parts_of(outputs, self.side, self.boxes)
        corner = tf.constant(grid_points((self.side, self.side), 1, 0.0), found.dtype)[:, None]
        found = tf.concat(((found[..., :2] + corner) / self.side, tf.square(found[..., 2:])), -1)
        boxes = tf.reshape(corners(found) * STRIDE * self.side, (-1, self.side**2 * self.boxes, 4))
        count, kinds = boxes.shape[1], classes.shape[2]
        scores = tf.reshape(present[..., None] * classes[:, :, None], (-1, count * kinds))
        scores, pairs = top_k(scores, count * kinds)
        index = pairs // kinds
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
