"""YOLACT: boxes with coefficients, and prototypes that all instances share; a mask is a weighted sum of prototypes.

"YOLACT: Real-time Instance Segmentation", 2019, arXiv:1904.02689. Parameter names: dbolya/yolact ``yolact.py`` and
``backbone.py`` (MIT). What to look at: masks are one product of matrices; suppression of all boxes of a class at once
("Fast NMS") lets a suppressed box suppress others.

Mirror notes:
- NHWC here, NCHW in PyTorch, where maps are transposed before they become rows of priors.
- Reversed lists of layers have the reference's numbers in both panels.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import first_positives
from tf_impl.classification.resnet import CONV, Bottleneck
from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.segmentation.unet import Upsample

__all__ = [
    "YOLACT",
    "YOLACTFPN",
    "PredictionModule",
    "YOLACTCriterion",
    "YOLACTDarknet",
    "YOLACTPostProcess",
    "YOLACTResNet",
    "best_detections",
    "cut_masks",
    "drawn_detections",
    "fast_nms",
    "match_priors",
    "priors",
    "yolact_base",
    "yolact_darknet53",
    "yolact_im400",
    "yolact_im400_criterion",
    "yolact_im400_postprocess",
    "yolact_im700",
    "yolact_im700_criterion",
    "yolact_im700_postprocess",
    "yolact_pascal_criterion",
    "yolact_pascal_postprocess",
    "yolact_resnet50",
    "yolact_resnet50_pascal",
]

SCALES = (24, 48, 96, 192, 384)  # of the priors of P3 to P7, in pixels of an image of 550 x 550
RATIOS = (1.0, 0.5, 2.0)
STDS = (0.1, 0.1, 0.2, 0.2)
IM400 = {"scales": (17, 34, 69, 139, 279), "max_size": 400}
IM700 = {"scales": (30, 61, 122, 244, 488), "max_size": 700}
PASCAL = {"scales": (32, 64, 128, 256, 512), "square": False}
LEAST_LOG = -100.0  # PyTorch's binary cross-entropy clips logarithms there
LARGEST_SLOPE = 1e12  # and their slope
XAVIER = functools.partial(Conv2D, kernel_initializer="glorot_uniform", bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class YOLACTResNet(keras.layers.Layer):
    """A residual network's maps C3 to C5; its stages are ``layers.0`` to ``layers.3``.

    Args:
        layers: blocks of each stage.
        planes: nominal width of each stage.
        conv, interval: makes the 3x3 convolutions of every ``interval``-th block of the last three stages, from the
            first on; 0 for none.

    Inputs: (N, H, W, 3).
    Returns: three maps (N, H / 8, W / 8, C_i) and so on, rounded up.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        conv=CONV,
        interval: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.conv1 = Conv2D(planes[0], 7, strides=2, padding=3, use_bias=False, kernel_initializer=KaimingNormal)
        self.bn1 = BatchNormalization()
        self.maxpool = MaxPooling2D(3, 2, padding=1)
        self.layers, channels = [], planes[0]
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            blocks = []
            for block in range(depth):
                made = conv if interval and i > 0 and block % interval == 0 else CONV
                strides = 2 if i > 0 and block == 0 else 1
                project = strides > 1 or channels != width * Bottleneck.expansion
                blocks.append(Bottleneck(width, strides, project=project, conv=made))
                channels = width * Bottleneck.expansion
            self.layers.append(keras.Sequential(blocks))

    def call(self, images, training=False):
        x = self.maxpool(tf.nn.relu(self.bn1(self.conv1(images), training=training)))
        maps = []
        for stage in self.layers:
            x = stage(x, training=training)
            maps.append(x)
        return maps[1:]


def conv_leaky(filters: int, kernel_size: int, strides: int = 1) -> keras.Sequential:
    """Convolution that keeps the size at stride 1, batch normalisation, leaky ReLU of slope 0.1."""
    conv = Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=False)
    return keras.Sequential([conv, BatchNormalization(), LeakyReLU(0.1)])


@keras.saving.register_keras_serializable("diptych")
class DarknetBlock(keras.layers.Layer):
    """1x1 convolution to half the width, 3x3 convolution back, shortcut.  (N, H, W, C) -> the same shape."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = conv_leaky(channels // 2, 1)
        self.conv2 = conv_leaky(channels, 3)

    def call(self, x, training=False):
        return x + self.conv2(self.conv1(x, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class YOLACTDarknet(keras.layers.Layer):
    """Darknet's maps C3 to C5; its stages are ``layers.0`` to ``layers.4``.

    Args:
        depths: bottlenecks of the five stages.
        widths: channels of the first convolution and of the stages.

    Inputs: (N, H, W, 3).
    Returns: three maps (N, H / 8, W / 8, C_i) and so on, rounded up.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024), **kwargs):
        super().__init__(**kwargs)
        self.preconv = conv_leaky(widths[0], 3)
        self.layers = []
        for depth, width in zip(depths, widths[1:], strict=True):
            blocks = (DarknetBlock(width) for _ in range(depth))
            self.layers.append(keras.Sequential([conv_leaky(width, 3, 2), *blocks]))

    def call(self, images, training=False):
        x, maps = self.preconv(images, training=training), []
        for stage in self.layers:
            x = stage(x, training=training)
            maps.append(x)
        return maps[2:]


@keras.saving.register_keras_serializable("diptych")
class YOLACTFPN(keras.layers.Layer):
    """Lateral convolutions, bilinear addition from the top down, 3x3 convolutions with ReLU, and two extra levels.

    Args:
        filters: channels of the levels.

    Inputs: list of three maps (N, H_i, W_i, C_i), fine to coarse.
    Returns: list of levels (N, H_i, W_i, filters), two more than maps.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.lat_layers = [XAVIER(filters, 1) for _ in range(3)]  # mirror: reversed
        self.pred_layers = [XAVIER(filters, 3, padding=1) for _ in range(3)]
        self.downsample_layers = [XAVIER(filters, 3, strides=2, padding=1) for _ in range(2)]

    def call(self, maps):
        levels, x = [], None
        for lateral, predict, finer in zip(self.lat_layers, self.pred_layers, reversed(maps)):
            y = lateral(finer)
            x = y if x is None else y + resize_bilinear(x, map_size(finer))
            levels.insert(0, tf.nn.relu(predict(x)))
        for downsample in self.downsample_layers:
            levels.append(downsample(levels[-1]))
        return levels


@keras.saving.register_keras_serializable("diptych")
class PredictionModule(keras.layers.Layer):
    """Boxes, classes and coefficients of the priors of a level.

    Args:
        channels: channels of the level.
        num_classes: classes K, without background.
        num_priors: priors per cell.
        prototypes: coefficients E per prior.

    Inputs: (N, H, W, C).
    Returns: (N, H W A, 4), (N, H W A, K + 1), (N, H W A, E).
    """

    def __init__(self, channels: int, num_classes: int, num_priors: int, prototypes: int, **kwargs):
        super().__init__(**kwargs)
        self.upfeature = keras.Sequential([XAVIER(channels, 3, padding=1), keras.layers.ReLU()])
        self.bbox_layer = XAVIER(num_priors * 4, 3, padding=1)
        self.conf_layer = XAVIER(num_priors * (num_classes + 1), 3, padding=1)
        self.mask_layer = XAVIER(num_priors * prototypes, 3, padding=1)
        self.num_priors = num_priors

    def call(self, x):
        x = self.upfeature(x)
        found = self.bbox_layer(x), self.conf_layer(x), tf.tanh(self.mask_layer(x))
        count = x.shape[1] * x.shape[2] * self.num_priors
        return [tf.reshape(y, (-1, count, y.shape[3] // self.num_priors)) for y in found]


@keras.saving.register_keras_serializable("diptych")
class YOLACT(Model):
    """Backbone, pyramid, prototypes, predictions.

    Args:
        backbone: returns C3 to C5.
        num_classes: classes K, without background.
        out_channels: channels of the levels.
        prototypes: prototypes E.
        num_priors: priors per cell.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"loc"`` (N, P, 4) deltas, ``"conf"`` (N, P, K + 1) logits, 0 is background, ``"mask"`` (N, P, E)
        coefficients, of all priors, see :func:`priors`; ``"proto"`` (N, 2 h, 2 w, E) prototypes; ``"segm"``
        (N, h, w, K) pixel logits, for training.
    """

    def __init__(
        self,
        backbone,
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
        num_priors: int = len(RATIOS),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = backbone
        self.proto_net = keras.Sequential(
            [
                XAVIER(out_channels, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(out_channels, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(out_channels, 3, padding=1),
                keras.layers.ReLU(),
                Upsample(),
                keras.layers.ReLU(),
                XAVIER(out_channels, 3, padding=1),
                keras.layers.ReLU(),
                XAVIER(prototypes, 1),
            ]
        )
        self.fpn = YOLACTFPN(out_channels)
        self.prediction_layers = [PredictionModule(out_channels, num_classes, num_priors, prototypes)]
        self.semantic_seg_conv = XAVIER(num_classes, 1)

    def call(self, images, training=False):
        levels = self.fpn(self.backbone(images, training=training))
        found = zip(*(self.prediction_layers[0](x) for x in levels))
        boxes, classes, coefficients = (tf.concat(parts, 1) for parts in found)
        return {
            "loc": boxes,
            "conf": classes,
            "mask": coefficients,
            "proto": tf.nn.relu(self.proto_net(levels[0])),
            "segm": self.semantic_seg_conv(levels[0]),
        }


def priors(size: tuple[int, int], scales, max_size: int, square: bool) -> np.ndarray:
    """The priors of all levels: in every cell, for each size, one for each ratio of width and height.

    Args:
        size: height and width of P3; every further level is half as large, rounded up.
        scales: sizes of every level's priors, in pixels, one or several per level.
        max_size: height and width of the images that the scales are meant for.
        square: whether priors are as high as wide whatever the ratio, an error of the reference that its weights rely
            on.

    Returns:
        (P, 4) xyxy, where the image is the square from 0 to 1.
    """
    found = []
    for scale in scales:
        height, width = size
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        centre = np.stack([x, y], -1)[:, :, None]  # (h, w, 1, 2)
        sizes = np.atleast_1d(scale)[:, None] / max_size
        wide = (sizes * np.sqrt(RATIOS)).reshape(-1)
        high = wide if square else (sizes / np.sqrt(RATIOS)).reshape(-1)
        half = np.stack([wide, high], -1) / 2
        found.append(np.concatenate([centre - half, centre + half], -1).reshape(-1, 4))
        size = (-(-height // 2), -(-width // 2))
    return np.concatenate(found)


def match_priors(iou, valid):
    """Assign to every prior the object that overlaps it most, after every object got its own prior.

    The pair of object and prior with the largest overlap is taken, then the best of the rest, and so on.

    Args:
        iou: (N, M, P) overlaps of objects and priors.
        valid: (N, M) bool, False for padding.

    Returns:
        best: (N, P) overlap with the object; 2 for the priors that objects got.
        index: (N, P) int64, the object.
    """
    iou = tf.where(valid[..., None], iou, -1.0)
    best, index = tf.reduce_max(iou, 1), argmax(iou, 1)
    count, places = iou.shape[1:]
    slots, place = tf.range(count, dtype=tf.int64), tf.range(places, dtype=tf.int64)
    for _ in range(count):
        largest = tf.reduce_max(iou, 2)
        row = argmax(largest, 1)[:, None]  # (N, 1)
        column = take_rows(argmax(iou, 2), row)
        left = take_rows(largest, row) >= 0
        taken = (place == column) & left  # (N, P)
        best, index = tf.where(taken, 2.0, best), tf.where(taken, row, index)
        used = (slots == row)[..., None] | (place == column)[:, None]
        iou = tf.where(used & left[..., None], -1.0, iou)
    return best, index


def cut_masks(masks, boxes):
    """Masks (N, Q, h, w), 0 outside boxes (N, Q, 4) and a border of one cell around them.

    Boxes are xyxy, where the image is the square from 0 to 1; their corners may be in any order.
    """
    height, width = masks.shape[2:]
    corners = boxes * tf.constant([width, height, width, height], boxes.dtype)
    low = (tf.minimum(corners[..., :2], corners[..., 2:]) - 1)[..., None, None]
    high = (tf.maximum(corners[..., :2], corners[..., 2:]) + 1)[..., None, None]
    x, y = (tf.cast(tf.range(n), boxes.dtype) for n in (width, height))
    y = y[:, None]
    inside = (x >= low[:, :, 0]) & (x < high[:, :, 0]) & (y >= low[:, :, 1]) & (y < high[:, :, 1])
    return tf.where(inside, masks, 0.0)


def cut_log(x):
    """Logarithm of numbers in [0, 1], at least -100; its slope is at most 1e12, as in PyTorch's cross-entropy."""
    value = tf.stop_gradient(x)
    found = tf.maximum(tf.math.log(tf.where(value > 0, value, 1.0)), LEAST_LOG)
    return tf.where(value > 0, found, LEAST_LOG) + (x - value) / tf.maximum(value, 1 / LARGEST_SLOPE)


def resized_masks(masks, size: tuple[int, int]):
    """Masks (N, M, H, W) at another height and width, bilinear."""
    return tf.transpose(resize_bilinear(tf.transpose(masks, (0, 2, 3, 1)), size), (0, 3, 1, 2))


def assembled(proto, coefficients):
    """Masks (N, Q, h, w) from prototypes (N, h, w, E) and coefficients (N, Q, E)."""
    height, width, channels = proto.shape[1:]
    shared = tf.reshape(proto, (-1, height * width, channels))
    masks = tf.sigmoid(tf.matmul(coefficients, shared, transpose_b=True))
    return tf.reshape(masks, (-1, coefficients.shape[1], height, width))


@keras.saving.register_keras_serializable("diptych")
class YOLACTCriterion(keras.layers.Layer):
    """Losses of boxes, of classes with the hardest negatives, of masks inside their boxes, of the classes of pixels.

    Args:
        scales, max_size, square: of the priors, see :func:`priors`.
        max_masks: priors per image whose masks count, the first ones; the loss is scaled up for the others.
        threshold, background: a prior with an overlap below the first belongs to no object; it is background below the
            second, ignored in between.
        crowd_threshold: also ignored is background of which a larger share lies in a crowd.
        negatives: background priors that count per matched prior of an image.
        box_weight, mask_weight: of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0 on, ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width, ``"crowd"`` (N, M) bool, many objects in
        one box, ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"B"`` of boxes, ``"M"`` of masks, ``"C"`` of classes, ``"S"`` of pixels, ``"total"``.
    """

    def __init__(
        self,
        scales: tuple = SCALES,
        max_size: int = 550,
        square: bool = True,
        max_masks: int = 100,
        threshold: float = 0.5,
        background: float = 0.4,
        crowd_threshold: float = 0.7,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scales, self.max_size, self.square, self.max_masks = tuple(scales), max_size, square, max_masks
        self.threshold, self.background, self.crowd_threshold = threshold, background, crowd_threshold
        self.negatives, self.box_weight, self.mask_weight = negatives, box_weight, mask_weight
        self.coder = DeltaCoder(STDS)

    def call(self, outputs, targets):
        logits, masks = outputs["conf"], tf.cast(targets["masks"], outputs["conf"].dtype)
        height, width = masks.shape[2:]
        boxes = tf.cast(targets["boxes"], logits.dtype) / tf.constant([width, height, width, height], logits.dtype)
        anchors = priors(map_size(outputs["segm"]), self.scales, self.max_size, self.square)
        anchors = tf.constant(anchors, logits.dtype)
        valid, crowd = targets["valid"] & ~targets["crowd"], targets["valid"] & targets["crowd"]

        best, index = match_priors(pairwise_iou(boxes, anchors), valid)  # (N, P)
        foreground, background = best >= self.threshold, best < self.background
        covered = pairwise_iou(tf.tile(anchors[None], (tf.shape(boxes)[0], 1, 1)), boxes, mode="iof")
        covered = tf.reduce_max(tf.where(crowd[:, None], covered, -1.0), 2)
        background = background & ~(covered > self.crowd_threshold)
        number = tf.reduce_sum(tf.cast(foreground, tf.int32), 1)  # (N,)
        count = tf.cast(tf.maximum(tf.reduce_sum(number), 1), logits.dtype)

        # a prior without an object is its own target: finite, and masked
        wanted = tf.where(foreground[..., None], take_rows(boxes, index), anchors)
        losses = smooth_l1_loss(outputs["loc"], self.coder.encode(wanted, anchors))
        regression = self.box_weight * tf.reduce_sum(tf.where(foreground, losses, 0.0)) / count

        labels = tf.where(foreground, take_rows(targets["labels"], index) + 1, 0)
        losses = -tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=2)  # (N, P)
        hardest, _ = top_k(tf.where(background, losses, -1.0), losses.shape[1])
        rank = tf.range(losses.shape[1])
        allowed = tf.minimum(self.negatives * number, losses.shape[1] - 1)[:, None]
        negative = tf.reduce_sum(tf.where((rank < allowed) & (hardest >= 0), hardest, 0.0))
        classification = (tf.reduce_sum(tf.where(foreground, losses, 0.0)) + negative) / count

        mask = self.mask_weight * self.of_masks(outputs, masks, boxes, index, foreground) / count
        places = self.of_places(outputs["segm"], masks, targets["labels"], valid)
        return {
            "B": regression,
            "M": mask,
            "C": classification,
            "S": places,
            "total": regression + mask + classification + places,
        }

    def of_masks(self, outputs, masks, boxes, index, foreground):
        """Sum of the cross-entropies of the first matched priors' masks, each over the area of its object's box."""
        cells, present = first_positives(foreground, self.max_masks)
        height, width = map_size(outputs["proto"])
        owner = take_rows(index, cells)
        small = tf.cast(resized_masks(masks, (height, width)) > 0.5, masks.dtype)
        wanted = take_rows(tf.reshape(small, (-1, small.shape[1], height * width)), owner)
        boxes = take_rows(boxes, owner)
        found = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), boxes)
        found = tf.reshape(found, (-1, found.shape[1], height * width))
        losses = -tf.reduce_sum(wanted * cut_log(found) + (1 - wanted) * cut_log(1 - found), 2)
        area = tf.reduce_prod((boxes[..., 2:] - boxes[..., :2]) * tf.constant([width, height], boxes.dtype), -1)
        losses = tf.reduce_sum(tf.where(present, losses / tf.where(present, area, 1.0), 0.0), 1)
        drawn = tf.reduce_sum(tf.cast(present, losses.dtype), 1)
        share = tf.reduce_sum(tf.cast(foreground, losses.dtype), 1) / tf.maximum(drawn, 1)
        return tf.reduce_sum(losses * share)

    @staticmethod
    def of_places(logits, masks, labels, valid):
        """Cross-entropy of the classes of pixels against the objects' masks, averaged over an image."""
        height, width = map_size(logits)
        small = (resized_masks(masks, (height, width)) > 0.5) & valid[..., None, None]  # (N, M, h, w)
        small = tf.reshape(tf.cast(small, masks.dtype), (-1, small.shape[1], height * width))
        present = tf.one_hot(labels, logits.shape[3], axis=1, dtype=masks.dtype)  # (N, K, M)
        wanted = tf.transpose(tf.cast(present @ small > 0, logits.dtype), (0, 2, 1))
        logits = tf.reshape(logits, (-1, height * width, logits.shape[3]))
        losses = tf.reduce_sum(binary_cross_entropy(logits, wanted), (1, 2)) / (height * width)
        return tf.reduce_mean(losses)


def fast_nms(boxes, scores, iou_threshold: float, candidates: int):
    """Suppression within each class by all better boxes, those that are suppressed themselves included.

    Args:
        boxes: (N, P, 4) xyxy.
        scores: (N, K, P); those below 0 take no part.
        iou_threshold: boxes overlap if their IoU is larger.
        candidates: boxes considered per class, C.

    Returns:
        scores: (N, K, C) descending, -1 for suppressed ones.
        index: (N, K, C) int64, the boxes.

    Source: dbolya/yolact ``layers/functions/detection.py``.
    """
    classes = scores.shape[1]
    scores, index = top_k(scores, min(candidates, scores.shape[2]))
    each = scores.shape[2]
    chosen = tf.reshape(take_rows(boxes, tf.reshape(index, (-1, classes * each))), (-1, classes, each, 4))
    better = tf.linalg.band_part(tf.ones((each, each), boxes.dtype), 0, -1) - tf.eye(each, dtype=boxes.dtype)
    overlap = tf.reduce_max(pairwise_iou(chosen, chosen) * better, 2)  # (N, K, C)
    return tf.where(overlap <= iou_threshold, scores, -1.0), index


def best_detections(
    outputs, anchors, score_threshold: float, iou_threshold: float, candidates: int, detections: int
) -> dict:
    """The best boxes after fast suppression, and their masks among the prototypes.

    Args:
        outputs: of :class:`YOLACT`.
        anchors: (P, 4) xyxy, see :func:`priors`.
        score_threshold, iou_threshold, candidates, detections: see :class:`YOLACTPostProcess`.

    Returns:
        dict: ``"masks"`` (N, D, h, w) probabilities, 0 outside the boxes; ``"boxes"`` (N, D, 4) xyxy, where the
        image is the square from 0 to 1; ``"scores"`` (N, D) descending; ``"labels"`` (N, D) int64; ``"valid"`` (N, D).
    """
    scores = tf.nn.softmax(outputs["conf"])[..., 1:]  # (N, P, K)
    boxes = DeltaCoder(STDS).decode(outputs["loc"], tf.constant(anchors, scores.dtype))
    scores = tf.where((tf.reduce_max(scores, -1) > score_threshold)[..., None], scores, -1.0)
    scores, index = fast_nms(boxes, tf.transpose(scores, (0, 2, 1)), iou_threshold, candidates)
    classes, each = scores.shape[1:]
    scores, order = top_k(tf.reshape(scores, (-1, classes * each)), min(detections, classes * each))
    labels, index = order // each, take_rows(tf.reshape(index, (-1, classes * each)), order)
    boxes = take_rows(boxes, index)
    masks = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], index)), boxes)
    return {"masks": masks, "boxes": boxes, "scores": scores, "labels": labels, "valid": scores > 0}


def drawn_detections(found, size, threshold: float) -> dict:
    """The detections of :func:`best_detections` in pixels of an image of the height and width ``size``."""
    height, width = (int(n) for n in size)
    boxes, valid = found["boxes"], found["valid"]
    size = tf.constant([width, height], boxes.dtype)
    low, high = tf.minimum(boxes[..., :2], boxes[..., 2:]), tf.maximum(boxes[..., :2], boxes[..., 2:])
    boxes = tf.concat([tf.maximum(low, 0) * size, tf.minimum(high, 1) * size], -1)
    return {
        "masks": (resized_masks(found["masks"], (height, width)) > threshold) & valid[..., None, None],
        "boxes": tf.where(valid[..., None], boxes, 0.0),
        "scores": tf.where(valid, found["scores"], 0.0),
        "labels": tf.where(valid, found["labels"], 0),
        "valid": valid,
    }


@keras.saving.register_keras_serializable("diptych")
class YOLACTPostProcess(keras.layers.Layer):
    """The best boxes after fast suppression, and their masks.

    Args:
        scales, max_size, square: of the priors, see :func:`priors`.
        score_threshold: priors whose best class has at most this probability are dropped.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        candidates: boxes considered per class.
        detections: results per image, D.
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64 from 0 on, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        scales: tuple = SCALES,
        max_size: int = 550,
        square: bool = True,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
        mask_threshold: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scales, self.max_size, self.square = tuple(scales), max_size, square
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.candidates, self.detections, self.mask_threshold = candidates, detections, mask_threshold

    def call(self, outputs, input_size):
        anchors = priors(map_size(outputs["segm"]), self.scales, self.max_size, self.square)
        found = best_detections(
            outputs, anchors, self.score_threshold, self.iou_threshold, self.candidates, self.detections
        )
        return drawn_detections(found, input_size, self.mask_threshold)


def yolact_base(layers=(3, 4, 23, 3), planes=(64, 128, 256, 512), **options) -> YOLACT:
    return YOLACT(YOLACTResNet(layers, planes), **options)


def yolact_resnet50(layers=(3, 4, 6, 3), **options) -> YOLACT:
    return yolact_base(layers=layers, **options)


def yolact_darknet53(depths=(1, 2, 8, 8, 4), widths=(32, 64, 128, 256, 512, 1024), **options) -> YOLACT:
    return YOLACT(YOLACTDarknet(depths, widths), **options)


def yolact_im400(**options) -> YOLACT:
    return yolact_base(**options)


def yolact_im700(**options) -> YOLACT:
    return yolact_base(**options)


def yolact_resnet50_pascal(num_classes: int = 20, **options) -> YOLACT:
    return yolact_resnet50(num_classes=num_classes, **options)


def yolact_im400_criterion(**options) -> YOLACTCriterion:
    """The losses for images of 400 x 400."""
    return YOLACTCriterion(**{**IM400, **options})


def yolact_im400_postprocess(**options) -> YOLACTPostProcess:
    """The results for images of 400 x 400."""
    return YOLACTPostProcess(**{**IM400, **options})


def yolact_im700_criterion(**options) -> YOLACTCriterion:
    """The losses for images of 700 x 700, of more masks."""
    return YOLACTCriterion(**{**IM700, "max_masks": 300, **options})


def yolact_im700_postprocess(**options) -> YOLACTPostProcess:
    """The results for images of 700 x 700."""
    return YOLACTPostProcess(**{**IM700, **options})


def yolact_pascal_criterion(**options) -> YOLACTCriterion:
    """The losses with larger priors, which are not square."""
    return YOLACTCriterion(**{**PASCAL, **options})


def yolact_pascal_postprocess(**options) -> YOLACTPostProcess:
    """The results with larger priors, which are not square."""
    return YOLACTPostProcess(**{**PASCAL, **options})
