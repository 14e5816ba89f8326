"""YOLOv3: three anchors in each cell of three maps predict whether they contain an object, its class, and its box.

"YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.
Parameter names: mmdet ``necks/yolo_neck.py``, ``dense_heads/yolo_head.py`` (Apache-2.0); of the variants with spatial
pyramid pooling and of the tiny one: darknet's configuration files, see ``_darknet.py``.

Mirror notes:
- NHWC here, NCHW in PyTorch: a map is transposed there before it becomes rows of anchors.
- PyTorch fills the biases of finished layers, Keras gives each layer its initial values.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.anchors import grid_anchors
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.results import results
from tf_impl.classification.darknet import conv_leaky, darknet53
from tf_impl.detection._darknet import DarknetLayers
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.resize import resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.dense import binary_cross_entropy

__all__ = [
    "YOLOV3",
    "DarknetYOLOV3",
    "YOLOV3Criterion",
    "YOLOV3Head",
    "YOLOV3Neck",
    "YOLOV3PostProcess",
    "yolov3_d53",
    "yolov3_spp",
    "yolov3_tiny",
    "yolov3_tiny_criterion",
    "yolov3_tiny_postprocess",
]

LEVELS = ("p5", "p4", "p3")  # from coarse to fine
STRIDES = (32, 16, 8)
ANCHORS = (  # width and height in pixels, by level
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
TINY_ANCHORS = (((81, 82), (135, 169), (344, 319)), ((10, 14), (23, 27), (37, 58)))
EPS = 1e-6


@keras.saving.register_keras_serializable("diptych", "yolov3.DetectionBlock")
class DetectionBlock(keras.layers.Layer):
    """Five convolutions, alternating 1x1 and 3x3.  (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = conv_leaky(filters, 1)
        self.conv2 = conv_leaky(2 * filters, 3)
        self.conv3 = conv_leaky(filters, 1)
        self.conv4 = conv_leaky(2 * filters, 3)
        self.conv5 = conv_leaky(filters, 1)

    def call(self, x, training=False):
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = conv(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych", "yolov3.YOLOV3Neck")
class YOLOV3Neck(keras.layers.Layer):
    """From coarse to fine: five convolutions, and a narrow copy that is upsampled and concatenated before the next map.

    Args:
        filters: of the results, from coarse to fine.

    Inputs: list of three maps (N, H, W, C), from coarse to fine.
    Returns: list of three maps of the same sizes.
    """

    def __init__(self, filters: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        self.detect1 = DetectionBlock(filters[0])
        for i in (1, 2):
            setattr(self, f"conv{i}", conv_leaky(filters[i], 1))
            setattr(self, f"detect{i + 1}", DetectionBlock(filters[i]))

    def call(self, maps, training=False):
        found = [self.detect1(maps[0], training=training)]
        for i in (1, 2):
            x = getattr(self, f"conv{i}")(found[-1], training=training)
            x = resize_nearest(x, (2 * x.shape[1], 2 * x.shape[2]))
            found.append(getattr(self, f"detect{i + 1}")(tf.concat((x, maps[i]), -1), training=training))
        return found


@keras.saving.register_keras_serializable("diptych", "yolov3.YOLOV3Head")
class YOLOV3Head(keras.layers.Layer):
    """A 3x3 convolution to twice the width and a 1x1 convolution, separately for every map.

    Args:
        channels: of the maps.
        num_classes: classes K.
        anchors: of a cell.

    Inputs: list of maps (N, H, W, C), from coarse to fine.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"``, ``"pred_p3"`` (N, H, W, A (5 + K)): of every anchor x, y, w, h, object,
        classes.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, anchors: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.convs_bridge = [conv_leaky(2 * c, 3) for c in channels]
        self.convs_pred = []
        for stride in STRIDES:
            bias = initial_bias(stride, num_classes, anchors)
            self.convs_pred.append(
                Conv2D(
                    anchors * (5 + num_classes),
                    1,
                    kernel_initializer=SmallNormal,
                    # mirror: fills the
                    bias_initializer=lambda shape, dtype, bias=bias: tf.constant(bias, dtype),
                )
            )

    def call(self, maps, training=False):
        maps = [bridge(x, training=training) for x, bridge in zip(maps, self.convs_bridge)]
        found = [pred(x) for x, pred in zip(maps, self.convs_pred)]
        return {f"pred_{level}": x for level, x in zip(LEVELS, found)}


def initial_bias(stride: int, num_classes: int, anchors: int) -> np.ndarray:
    """Initial bias for eight objects per 608-pixel image, and a probability of 0.01 for every class.  (A (5 + K),)."""
    bias = np.zeros((anchors, 5 + num_classes))
    for begin, p in ((4, 8 / (608 / stride) ** 2), (5, 0.01)):
        bias[:, begin:] = -math.log((1 - p) / p)
    return bias.reshape(-1)


@keras.saving.register_keras_serializable("diptych", "yolov3.YOLOV3")
class YOLOV3(Model):
    """Darknet-53, neck, head.

    Args:
        depths, widths, norm_eval, frozen_stages: of the trunk, see :class:`Darknet`.
        num_classes: classes K.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: see :class:`YOLOV3Head`.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (1, 2, 8, 8, 4),
        widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024),
        norm_eval: bool = True,
        frozen_stages: int = -1,
        num_classes: int = 80,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = darknet53(
            depths,
            widths,
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        halves = tuple(c // 2 for c in self.backbone.channels.values())[::-1]
        self.neck = YOLOV3Neck(halves)
        self.bbox_head = YOLOV3Head(halves, num_classes)

    def call(self, images, training=False):
        maps = list(self.backbone(images, training=training).values())[::-1]
        return self.bbox_head(self.neck(maps, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class DarknetYOLOV3(DarknetLayers):
    """A network from one of darknet's configuration files.

    Args:
        rows: of the file, see :class:`DarknetLayers`; the results from coarse to fine.

    Inputs: (N, H, W, 3) float in [0, 1]; H and W multiples of 32.
    Returns: dict: ``"pred_p5"``, ``"pred_p4"``, and of three results ``"pred_p3"``, see :class:`YOLOV3Head`.
    """

    def __init__(self, rows: tuple[tuple, ...], **kwargs):
        super().__init__(rows, **kwargs)

    def call(self, images, training=False):
        return {f"pred_{level}": x for level, x in zip(LEVELS, super().call(images, training))}


def rows_of(outputs, anchors):
    """The maps of the levels as rows of anchors.

    Args:
        outputs: of the model.
        anchors: widths and heights, by level.

    Returns:
        (N, P, 5 + K); the anchors as boxes (P, 4) xyxy in pixels, and their strides (P,).
    """
    found, boxes, strides = [], [], []
    for i, (level, of_level) in enumerate(zip(LEVELS, anchors)):
        x, stride = outputs[f"pred_{level}"], STRIDES[i]
        _, h, w, width = x.shape
        # mirror: transposed
        found.append(tf.reshape(x, (-1, h * w * len(of_level), width // len(of_level))))
        half = np.array(of_level, np.float64) / 2
        boxes.append(grid_anchors(np.concatenate([-half, half], -1), (h, w), (stride, stride), 0.5))
        strides.append(np.full(len(boxes[-1]), stride))
    found = tf.concat(found, 1)
    return found, *(tf.constant(np.concatenate(x), found.dtype) for x in (boxes, strides))


@keras.saving.register_keras_serializable("diptych", "yolov3.YOLOV3Criterion")
class YOLOV3Criterion(keras.layers.Layer):
    """Cross-entropies of object, classes and position, squared errors of the sizes' logarithms; sums over the batch.

    An anchor belongs to an object if its cell contains the object's centre and it overlaps the object by more than
    ``threshold``; an object always gets the best anchors of such cells. Anchors that overlap an object by more than
    ``threshold`` in other cells are neither objects nor background.

    Args:
        threshold: as above.
        xy_weight, wh_weight: of the two losses of boxes.
        anchors: widths and heights in pixels, by level from coarse to fine.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_conf"``, ``"loss_xy"``, ``"loss_wh"``, ``"total"``.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        xy_weight: float = 2.0,
        wh_weight: float = 2.0,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = ANCHORS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.threshold, self.xy_weight, self.wh_weight, self.anchors = threshold, xy_weight, wh_weight, anchors

    def call(self, outputs, targets):
        found, anchors, stride = rows_of(outputs, self.anchors)
        boxes, valid, zero = tf.cast(targets["boxes"], found.dtype), targets["valid"], tf.zeros([], found.dtype)
        centre, none = (boxes[..., :2] + boxes[..., 2:]) / 2, tf.constant(-1, tf.int64)

        # (N, M, P): whether an anchor's cell contains an object's centre
        cell = tf.floor((anchors[:, :2] + anchors[:, 2:]) / 2 / stride[:, None])
        here = tf.floor(centre[:, :, None] / stride[:, None]) == cell
        responsible = tf.reduce_any(tf.reduce_all(here, -1) & valid[..., None], 1)  # (N, P)
        iou = tf.where(valid[..., None], pairwise_iou(boxes, anchors, EPS), -1.0)
        background = tf.reduce_max(iou, 1) <= self.threshold
        iou = tf.where(responsible[:, None], iou, -1.0)
        best, index = tf.reduce_max(iou, 1), argmax(iou, 1)
        matched = tf.where((best > self.threshold) & responsible, index, none)
        highest = tf.reduce_max(iou, 2, keepdims=True)
        forced = (iou == highest) & (highest > 0)
        slots = tf.range(boxes.shape[1], dtype=tf.int64)[:, None]
        last = tf.reduce_max(tf.where(forced, slots, none), 1)
        matched = tf.where(last >= 0, last, matched)
        positive = matched >= 0

        wanted = take_rows(boxes, matched)
        middle, size = (wanted[..., :2] + wanted[..., 2:]) / 2, wanted[..., 2:] - wanted[..., :2]
        offset = (middle - (anchors[:, :2] + anchors[:, 2:]) / 2) / stride[:, None] + 0.5
        offset = tf.clip_by_value(offset, EPS, 1 - EPS)
        ratio = tf.math.log(tf.maximum(size / (anchors[:, 2:] - anchors[:, :2]), EPS))
        labels = take_rows(targets["labels"], matched)
        classes = tf.range(found.shape[-1] - 5, dtype=labels.dtype)
        one_hot = tf.cast(labels[..., None] == classes, found.dtype)

        def total(losses, mask):
            return tf.reduce_sum(tf.where(mask, losses, zero))

        confidence = binary_cross_entropy(found[..., 4], tf.cast(positive, found.dtype))
        losses = {
            "loss_cls": total(binary_cross_entropy(found[..., 5:], one_hot), positive[..., None]),
            "loss_conf": total(confidence, positive | background),
            "loss_xy": self.xy_weight * total(binary_cross_entropy(found[..., :2], offset), positive[..., None]),
            "loss_wh": self.wh_weight * total(tf.square(found[..., 2:4] - ratio), positive[..., None]),
        }
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych", "yolov3.YOLOV3PostProcess")
class YOLOV3PostProcess(keras.layers.Layer):
    """The best boxes of every image, chosen by the class alone among anchors with an object, then scored by both.

    Args:
        object_threshold: anchors with a smaller probability of an object are dropped.
        score_threshold: pairs of anchor and class of at most this probability of the class are dropped.
        candidates: pairs kept.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        anchors: see :class:`YOLOV3Criterion`.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        object_threshold: float = 0.005,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.45,
        detections: int = 100,
        anchors: tuple[tuple[tuple[float, float], ...], ...] = ANCHORS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.object_threshold, self.score_threshold, self.candidates = object_threshold, score_threshold, candidates
        self.iou_threshold, self.detections, self.anchors = iou_threshold, detections, anchors

    def call(self, outputs):
        found, anchors, stride = rows_of(outputs, self.anchors)
        centre, half = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]) / 2
        centre = centre + (tf.sigmoid(found[..., :2]) - 0.5) * stride[:, None]
        half = half * tf.exp(found[..., 2:4])
        boxes, present = tf.concat((centre - half, centre + half), -1), tf.sigmoid(found[..., 4])
        scores = tf.where((present >= self.object_threshold)[..., None], tf.sigmoid(found[..., 5:]), -1.0)
        rows, classes = scores.shape[1:]
        scores, pairs = top_k(tf.reshape(scores, (-1, rows * classes)), min(self.candidates, rows * classes))
        index = pairs // classes
        labels, valid = pairs - index * classes, scores > self.score_threshold
        scores, boxes = scores * take_rows(present, index), take_rows(boxes, index)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def yolov3_tiny_criterion(anchors=TINY_ANCHORS, **options) -> YOLOV3Criterion:
    return YOLOV3Criterion(anchors=anchors, **options)


def yolov3_tiny_postprocess(anchors=TINY_ANCHORS, **options) -> YOLOV3PostProcess:
    return YOLOV3PostProcess(anchors=anchors, **options)


def yolov3_d53(depths=(1, 2, 8, 8, 4), **options) -> YOLOV3:
    return YOLOV3(depths=depths, **options)


def yolov3_spp(width: float = 1.0, depths: tuple[int, ...] = (1, 2, 8, 8, 4), num_classes: int = 80) -> DarknetYOLOV3:
    """The configuration with spatial pyramid pooling: three parallel poolings of the coarsest map."""
    c = [int(n * width) for n in (32, 64, 128, 256, 512, 1024)]
    rows, ends = [("conv", c[0], 3, 1)], []
    for i, depth in enumerate(depths):
        rows.append(("conv", c[i + 1], 3, 2))
        for _ in range(depth):
            rows += [("conv", c[i], 1, 1), ("conv", c[i + 1], 3, 1), ("shortcut", -3)]
        ends.append(len(rows) - 1)
    last = [("plain", 3 * (5 + num_classes)), ("out",)]
    rows += [("conv", c[4], 1, 1), ("conv", c[5], 3, 1), ("conv", c[4], 1, 1)]
    rows += [("max", 5, 1), ("route", (-2,)), ("max", 9, 1), ("route", (-4,)), ("max", 13, 1)]
    rows += [("route", (-1, -3, -5, -6)), ("conv", c[4], 1, 1)]
    rows += [("conv", c[5], 3, 1), ("conv", c[4], 1, 1), ("conv", c[5], 3, 1), *last]
    for wide, trunk in ((4, ends[3]), (3, ends[2])):
        rows += [("route", (-4,)), ("conv", c[wide - 1], 1, 1), ("upsample",), ("route", (-1, trunk))]
        rows += [("conv", c[wide - 1], 1, 1), ("conv", c[wide], 3, 1)] * 3
        rows += last
    return DarknetYOLOV3(tuple(rows))


def yolov3_tiny(width: float = 1.0, num_classes: int = 80) -> DarknetYOLOV3:
    """The configuration with seven convolutions and two maps."""
    c = [int(n * width) for n in (16, 32, 64, 128, 256, 512, 1024)]
    last = [("plain", 3 * (5 + num_classes)), ("out",)]
    rows = []
    for channels in c[:5]:
        rows += [("conv", channels, 3, 1), ("max", 2, 2)]
    rows += [("conv", c[5], 3, 1), ("max", 2, 1), ("conv", c[6], 3, 1)]
    rows += [("conv", c[4], 1, 1), ("conv", c[5], 3, 1), *last]
    rows += [("route", (-4,)), ("conv", c[3], 1, 1), ("upsample",), ("route", (-1, 8))]
    rows += [("conv", c[4], 3, 1), *last]
    return DarknetYOLOV3(tuple(rows))
