"""RetinaFace: one pass over an image finds faces, their boxes and five points of each.

"RetinaFace: Single-stage Dense Face Localisation in the Wild", 2019, arXiv:1905.00641. Parameter names and numbers:
biubug6/Pytorch_Retinaface ``models/retinaface.py`` (MIT), which has neither the mesh decoder (``retinaface_dense.py``)
nor the paper's levels P2 and P6 (``retinaface_paper.py``). What to look at: a context module widens each level's
receptive field, a face without landmarks still counts for boxes and classes, and only the largest losses of the
background count.

Mirror notes:
- NHWC here, NCHW in PyTorch: there maps are transposed before they become rows of anchors.
- Keras infers the input widths.
"""

import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from tf_impl.boxes.anchors import cell_anchors, grid_anchors
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.nms import nms
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import smooth_l1_loss

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

CONV = functools.partial(Conv2D, use_bias=False)


def conv_bn(filters: int, kernel_size: int, slope: float | None, strides: int = 1):
    """Convolution, normalisation, leaky ReLU unless the slope is None."""
    layers = [CONV(filters, kernel_size, strides=strides, padding=kernel_size // 2), BatchNormalization()]
    return keras.Sequential(layers if slope is None else [*layers, LeakyReLU(slope)])


def conv_dw(in_channels: int, filters: int, strides: int):
    """A depthwise 3x3 convolution, then a 1x1 convolution."""
    return keras.Sequential(
        [
            CONV(in_channels, 3, strides=strides, padding=1, groups=in_channels),
            BatchNormalization(),
            LeakyReLU(0.1),
            CONV(filters, 1),
            BatchNormalization(),
            LeakyReLU(0.1),
        ]
    )


@keras.saving.register_keras_serializable("diptych")
class MobileNet025(Model):
    """MobileNet at a quarter of its width, with leaky activations.

    Args:
        width: channels of the first convolution.

    Inputs: (N, H, W, 3) float.
    Returns: dict of maps ``"c3"``, ``"c4"``, ``"c5"``.
    """

    def __init__(self, width: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        pairs = [(1, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1)]
        first = [conv_dw(width * a, width * b, strides) for a, b, strides in pairs]
        self.stage1 = keras.Sequential([conv_bn(width, 3, 0.1, 2), *first])
        more = [conv_dw(16 * width, 16 * width, 1) for _ in range(5)]
        self.stage2 = keras.Sequential([conv_dw(8 * width, 16 * width, 2), *more])
        self.stage3 = keras.Sequential([conv_dw(16 * width, 32 * width, 2), conv_dw(32 * width, 32 * width, 1)])

    def call(self, images, training=False):
        c3 = self.stage1(images, training=training)
        c4 = self.stage2(c3, training=training)
        return {"c3": c3, "c4": c4, "c5": self.stage3(c4, training=training)}


@keras.saving.register_keras_serializable("diptych", "retinaface.Pyramid")
class Pyramid(keras.layers.Layer):
    """Lateral 1x1 convolutions, addition from the top down, 3x3 convolutions of the two finer sums.

    Args:
        filters: channels of the levels.
        slope: of the leaky ReLUs.

    maps: three (N, H_i, W_i, C_i) -> three (N, H_i, W_i, filters), fine to coarse.
    """

    def __init__(self, filters: int, slope: float, **kwargs):
        super().__init__(**kwargs)
        for i in (1, 2, 3):
            setattr(self, f"output{i}", conv_bn(filters, 1, slope))
        self.merge1, self.merge2 = conv_bn(filters, 3, slope), conv_bn(filters, 3, slope)

    def call(self, maps, training=False):
        fine, middle, coarse = (getattr(self, f"output{i}")(x, training=training) for i, x in enumerate(maps, start=1))
        middle = self.merge2(middle + resize_nearest(coarse, map_size(middle)), training=training)
        fine = self.merge1(fine + resize_nearest(middle, map_size(fine)), training=training)
        return [fine, middle, coarse]


@keras.saving.register_keras_serializable("diptych")
class SSH(keras.layers.Layer):
    """Three parallel receptive fields of 3, 5 and 7 pixels.

    Args:
        filters: channels of the result, a multiple of 4.
        slope: of the leaky ReLUs.
        conv: makes a convolution as :func:`conv_bn` does.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, slope: float, conv: Callable = conv_bn, **kwargs):
        super().__init__(**kwargs)
        self.conv3X3 = conv(filters // 2, 3, None)
        self.conv5X5_1, self.conv5X5_2 = conv(filters // 4, 3, slope), conv(filters // 4, 3, None)
        self.conv7X7_2, self.conv7x7_3 = conv(filters // 4, 3, slope), conv(filters // 4, 3, None)

    def call(self, x, training=False):
        y = self.conv5X5_1(x, training=training)
        seven = self.conv7x7_3(self.conv7X7_2(y, training=training), training=training)
        parts = (self.conv3X3(x, training=training), self.conv5X5_2(y, training=training), seven)
        return tf.nn.relu(tf.concat(parts, -1))


@keras.saving.register_keras_serializable("diptych", "retinaface.Head")
class Head(keras.layers.Layer):
    """A 1x1 convolution whose result is reshaped to rows.

    Args:
        numbers: values per anchor; a cell has two anchors.

    x: (N, H, W, C) -> (N, 2 H W, numbers), both anchors of a cell together.
    """

    def __init__(self, numbers: int, **kwargs):
        super().__init__(**kwargs)
        self.numbers = numbers
        self.conv1x1 = Conv2D(2 * numbers, 1)

    def call(self, x):
        return tf.reshape(self.conv1x1(x), (-1, 2 * x.shape[1] * x.shape[2], self.numbers))  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class RetinaFace(Model):
    """The detector.

    Args:
        body: returns the maps ``"c3"``, ``"c4"``, ``"c5"``.
        out_channels: channels of the levels; up to 64, activations are leaky.

    Inputs: (N, H, W, 3) float, BGR minus (104, 117, 123).
    Returns: dict: ``"boxes"`` (N, A, 4) and ``"landmarks"`` (N, A, 10) relative to the anchors, ``"classes"`` (N, A, 2)
        logits (none, face), ``"anchors"`` (A, 4) xyxy in pixels.
    """

    def __init__(self, body, out_channels: int = 256, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.body = body
        slope = 0.1 if out_channels <= 64 else 0.0
        self.fpn = Pyramid(out_channels, slope)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(out_channels, slope) for _ in STEPS)
        for name, numbers in (("ClassHead", 2), ("BboxHead", 4), ("LandmarkHead", 10)):
            setattr(self, name, [Head(numbers) for _ in STEPS])  # mirror: infers

    def levels(self, images, training=False):
        """The maps that the heads read."""
        maps = self.body(images, training=training)
        levels = self.fpn([maps[name] for name in ("c3", "c4", "c5")], training=training)
        return [ssh(x, training=training) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]

    def answers(self, images, levels) -> dict:
        """The results of :meth:`call`, from the maps."""
        anchors = [
            tf.constant(grid_anchors(cell_anchors(sizes, (1.0,)), map_size(x), (step, step), 0.5), images.dtype)
            for sizes, step, x in zip(SIZES, STEPS, levels, strict=True)
        ]
        heads = {"boxes": self.BboxHead, "classes": self.ClassHead, "landmarks": self.LandmarkHead}
        outputs = {key: tf.concat([head(x) for head, x in zip(part, levels)], 1) for key, part in heads.items()}
        return {**outputs, "anchors": tf.concat(anchors, 0)}

    def call(self, images, training=False):
        return self.answers(images, self.levels(images, training))


def centre_and_size(boxes_xyxy):
    """(..., 4) -> (..., 2) x and y, (..., 2) width and height."""
    return (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2, boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]


@keras.saving.register_keras_serializable("diptych")
class RetinaFaceCriterion(keras.layers.Layer):
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
        self,
        overlap: float = 0.35,
        negatives: int = 7,
        box_weight: float = 2.0,
        landmark_weight: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.overlap, self.negatives = overlap, negatives
        self.box_weight, self.landmark_weight = box_weight, landmark_weight

    def assign(self, boxes, valid, anchors):
        """Index of every anchor's face (N, A), whether it has one (N, A), and whether it is background (N, A)."""
        iou = pairwise_iou(boxes, anchors)
        iou = tf.where(valid[..., None], iou, -tf.ones_like(iou))  # (N, M, A)
        every = tf.range(iou.shape[2], dtype=tf.int64)
        chosen = (argmax(iou, 2)[..., None] == every) & valid[..., None]  # the best anchor of each face
        eligible = (tf.reduce_max(iou, 2) >= LEAST_OVERLAP)[..., None]  # (N, M, 1)
        slots = tf.range(iou.shape[1], dtype=tf.int64)[:, None]
        # NOTE: ineligible faces take their best anchor too, which keeps its overlap; the last face wins
        last = tf.reduce_max(tf.where(chosen, slots, -tf.ones_like(slots)), 1)
        index = tf.where(last >= 0, last, argmax(iou, 1))
        positive = tf.reduce_any(chosen & eligible, 1) | (tf.reduce_max(iou, 1) >= self.overlap)
        positive = positive & tf.reduce_any(eligible, 1)
        return index, positive, ~positive

    def call(self, outputs, targets):
        anchors, classes = outputs["anchors"], outputs["classes"]
        dtype, zero = classes.dtype, tf.zeros([], classes.dtype)
        boxes = tf.cast(targets["boxes"], dtype)
        index, positive, negative = self.assign(boxes, targets["valid"], anchors)
        centre, size = centre_and_size(anchors)
        matched = tf.where(positive[..., None], take_rows(boxes, index), anchors)
        goal, goal_size = centre_and_size(matched)
        wanted = ((goal - centre) / (VARIANCES[0] * size), tf.math.log(goal_size / size) / VARIANCES[1])
        losses = smooth_l1_loss(outputs["boxes"], tf.concat(wanted, -1))
        faces = tf.maximum(tf.reduce_sum(tf.cast(positive, dtype)), 1.0)
        box = tf.reduce_sum(tf.where(positive, losses, zero)) / faces

        marked = positive & take_rows(targets["marked"], index)
        points = tf.where(marked[..., None], take_rows(tf.cast(targets["landmarks"], dtype), index), zero)
        wanted = (points - tf.tile(centre, (1, 5))) / (VARIANCES[0] * tf.tile(size, (1, 5)))
        losses = smooth_l1_loss(outputs["landmarks"], wanted)
        landmark = tf.reduce_sum(tf.where(marked, losses, zero))
        landmark = landmark / tf.maximum(tf.reduce_sum(tf.cast(marked, dtype)), 1.0)

        log_p = tf.nn.log_softmax(classes, -1)
        background = top_k(tf.where(negative, -log_p[..., 0], zero), positive.shape[1])[0]  # (N, A), descending
        count = tf.reduce_sum(tf.cast(positive, tf.int32), 1, keepdims=True)
        hard = tf.range(positive.shape[1]) < tf.minimum(self.negatives * count, positive.shape[1] - 1)
        found = tf.reduce_sum(tf.where(positive, -log_p[..., 1], zero))
        found = (found + tf.reduce_sum(tf.where(hard, background, zero))) / faces
        total = self.box_weight * box + found + self.landmark_weight * landmark
        return {"box": box, "class": found, "landmark": landmark, "total": total}


@keras.saving.register_keras_serializable("diptych")
class RetinaFacePostProcess(keras.layers.Layer):
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def call(self, outputs):
        centre, size = centre_and_size(outputs["anchors"])
        deltas = outputs["boxes"]
        middle, half = centre + VARIANCES[0] * deltas[..., :2] * size, tf.exp(VARIANCES[1] * deltas[..., 2:]) * size / 2
        boxes = tf.concat((middle - half, middle + half), -1)
        points = tf.tile(centre, (1, 5)) + VARIANCES[0] * outputs["landmarks"] * tf.tile(size, (1, 5))
        scores = tf.nn.softmax(outputs["classes"], -1)[..., 1]
        scores, index = top_k(scores, min(self.candidates, scores.shape[1]))
        boxes, rows = take_rows(boxes, index), {"landmarks": points}
        if "codes" in outputs:
            rows["codes"] = outputs["codes"]
        wider = boxes + tf.constant((0.0, 0.0, 1.0, 1.0), boxes.dtype)  # the reference counts both borders
        kept, valid = nms(wider, scores, self.iou_threshold, self.detections, self.score_threshold)
        zero = tf.zeros([], boxes.dtype)
        found = {"boxes": boxes} | {name: take_rows(x, index) for name, x in rows.items()}
        found = {name: tf.where(valid[..., None], take_rows(x, kept), zero) for name, x in found.items()}
        return {**found, "scores": tf.where(valid, take_rows(scores, kept), zero), "valid": valid}


def retinaface_mobilenet025(width: int = 8, out_channels: int = 64) -> RetinaFace:
    return RetinaFace(MobileNet025(width), out_channels)


def retinaface_resnet50(
    layers: tuple[int, ...] = (3, 4, 6, 3),
    planes: tuple[int, ...] = (64, 128, 256, 512),
    out_channels: int = 256,
) -> RetinaFace:
    body = ResNet(Bottleneck, layers, planes=planes, features_only=True, out_indices=(2, 3, 4))
    return RetinaFace(body, out_channels)
