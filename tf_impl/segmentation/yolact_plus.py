"""YOLACT++: YOLACT with deformable convolutions, more priors, and a small network that predicts how good a mask is.

"YOLACT++: Better Real-time Instance Segmentation", 2019, arXiv:1912.06218. Parameter names: dbolya/yolact
``yolact.py``, ``backbone.py`` (MIT). What to look at: the network that estimates the masks' IoU only sees the masks
assembled from the prototypes, and its loss trains these.

Mirror notes:
- NHWC here, NCHW in PyTorch: masks become images with a channel axis at the end here, in front there.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import first_positives
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.deform_conv import deform_conv2d
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.segmentation.yolact import (
    RATIOS,
    SCALES,
    XAVIER,
    YOLACT,
    YOLACTCriterion,
    YOLACTResNet,
    assembled,
    best_detections,
    cut_masks,
    drawn_detections,
    match_priors,
    priors,
    resized_masks,
)

__all__ = [
    "DCN",
    "MaskIoUNet",
    "YOLACTPlus",
    "YOLACTPlusCriterion",
    "YOLACTPlusPostProcess",
    "yolact_plus_base",
    "yolact_plus_resnet50",
]

SIZES = tuple(tuple(scale * 2 ** (third / 3) for third in range(3)) for scale in SCALES)  # priors of every level


@keras.saving.register_keras_serializable("diptych")
class DCN(keras.layers.Layer):
    """Deformable convolution v2 with the first implementation's name for its offsets and masks.

    Args:
        filters, kernel_size, strides, padding, dilation_rate: as of a convolution.
        groups: 1.

    Inputs: (N, H, W, C).  Returns: (N, h, w, filters).
    """

    torch_names = {"kernel": ("weight", (3, 2, 0, 1)), "bias": ("bias", None)}

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        padding: int = 0,
        dilation_rate: int = 1,
        groups: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.groups = filters, kernel_size, groups
        self.window = strides, padding, dilation_rate
        self.conv_offset_mask = Conv2D(
            3 * kernel_size * kernel_size,
            kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            kernel_initializer="zeros",
            bias_initializer="zeros",
        )

    def build(self, input_shape):
        channels, size = input_shape[-1], self.kernel_size
        bound = (channels * size * size) ** -0.5
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, channels // self.groups, self.filters),
            initializer=keras.initializers.RandomUniform(-bound, bound),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        if not self.conv_offset_mask.built:
            self.conv_offset_mask.build(input_shape)

    def call(self, x):
        found = self.conv_offset_mask(x)
        split = found.shape[-1] // 3 * 2  # two thirds are offsets, one third is the mask
        mask = tf.sigmoid(found[..., split:])
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        return deform_conv2d(x, found[..., :split], kernel, bias, *self.window, mask)


@keras.saving.register_keras_serializable("diptych")
class MaskIoUNet(keras.layers.Layer):
    """The IoU of a mask with its object, for every class, from the mask alone.

    Args:
        num_classes: classes K.
        channels: of the convolutions, each of which halves the mask.

    Inputs: (R, h, w, 1) probabilities.
    Returns: (R, K), 0 or more.
    """

    def __init__(self, num_classes: int, channels: tuple[int, ...] = (8, 16, 32, 64, 128), **kwargs):
        super().__init__(**kwargs)
        layers = []
        for width in channels:
            layers += [XAVIER(width, 3, strides=2), keras.layers.ReLU()]
        self.maskiou_net = keras.Sequential([*layers, XAVIER(num_classes, 1), keras.layers.ReLU()])

    def call(self, x):
        return tf.reduce_max(self.maskiou_net(x), (1, 2))


@keras.saving.register_keras_serializable("diptych")
class YOLACTPlus(YOLACT):
    """YOLACT whose masks get their own scores.

    Args:
        backbone, num_classes, out_channels, prototypes, num_priors: of :class:`YOLACT`.
        iou_channels: see :class:`MaskIoUNet`.
        scales, max_size, square: of the priors, see :func:`priors`.
        max_masks, threshold: see :class:`YOLACTCriterion`.
        score_threshold, iou_threshold, candidates, detections: see :class:`YOLACTPostProcess`.

    Inputs: (N, H, W, 3) float, normalised; ``targets`` of the criterion.
    Returns: dict of :class:`YOLACT`, and of the best detections: ``"masks"`` (N, D, 2 h, 2 w), ``"boxes"``,
        ``"scores"``, ``"labels"``, ``"valid"``, see :func:`best_detections`, and ``"mask_ious"`` (N, D). With targets,
        instead of these, of the first matched priors: ``"masks"`` (N, Q, 2 h, 2 w), ``"matched"`` (N, Q) int64, the
        object or -1, its ``"labels"`` (N, Q), ``"mask_ious"`` (N, Q); and ``"positives"`` (N,) int64, how many there
        are.
    """

    def __init__(
        self,
        backbone,
        num_classes: int = 80,
        out_channels: int = 256,
        prototypes: int = 32,
        num_priors: int = len(RATIOS) * len(SIZES[0]),
        iou_channels: tuple[int, ...] = (8, 16, 32, 64, 128),
        scales: tuple = SIZES,
        max_size: int = 550,
        square: bool = False,
        max_masks: int = 100,
        threshold: float = 0.5,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        candidates: int = 200,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(backbone, num_classes, out_channels, prototypes, num_priors, **kwargs)
        self.maskiou_net = MaskIoUNet(num_classes, iou_channels)
        self.priors = functools.partial(priors, scales=scales, max_size=max_size, square=square)
        self.max_masks, self.threshold = max_masks, threshold
        self.limits = score_threshold, iou_threshold, candidates, detections

    def call(self, images, targets=None, training=False):
        outputs = super().call(images, training=training)
        anchors = self.priors(map_size(outputs["segm"]))
        if targets is None:
            found = best_detections(outputs, anchors, *self.limits)
        else:
            found = self.match(outputs, anchors, targets)
        masks = found["masks"]
        ious = self.maskiou_net(tf.reshape(masks, (-1, *masks.shape[2:], 1)))  # mirror: at the end
        ious = tf.reshape(ious, (-1, masks.shape[1], ious.shape[1]))
        return {**outputs, **found, "mask_ious": tf.gather(ious, found["labels"], batch_dims=2)}

    def match(self, outputs, anchors, targets) -> dict:
        """The masks of the first matched priors, cropped by the boxes of their objects."""
        logits = outputs["conf"]
        height, width = targets["masks"].shape[2:]
        boxes = tf.cast(targets["boxes"], logits.dtype)
        boxes = boxes / tf.constant([width, height, width, height], boxes.dtype)
        iou = pairwise_iou(boxes, tf.constant(anchors, logits.dtype))
        best, index = match_priors(iou, targets["valid"] & ~targets["crowd"])
        foreground = best >= self.threshold
        cells, present = first_positives(foreground, self.max_masks)
        owner = take_rows(index, cells)
        masks = cut_masks(assembled(outputs["proto"], take_rows(outputs["mask"], cells)), take_rows(boxes, owner))
        return {
            "masks": masks,
            "labels": take_rows(targets["labels"], owner),
            "matched": tf.where(present, owner, -1),
            "positives": tf.reduce_sum(tf.cast(foreground, tf.int64), 1),
        }


@keras.saving.register_keras_serializable("diptych")
class YOLACTPlusCriterion(YOLACTCriterion):
    """The losses of YOLACT, and that of the masks' estimated IoU.

    Args:
        scales, max_size, square, max_masks, threshold, background, crowd_threshold, negatives, box_weight, mask_weight:
            of :class:`YOLACTCriterion`; the first five as in the model.
        iou_weight: of the new loss.
        least_area: only masks whose object covers more cells of the prototypes than this count.

    Inputs: as for :class:`YOLACTCriterion`; ``outputs`` with targets.
    Returns: as for :class:`YOLACTCriterion`, and ``"I"``.
    """

    def __init__(
        self,
        scales: tuple = SIZES,
        max_size: int = 550,
        square: bool = False,
        max_masks: int = 100,
        threshold: float = 0.5,
        background: float = 0.4,
        crowd_threshold: float = 0.7,
        negatives: int = 3,
        box_weight: float = 1.5,
        mask_weight: float = 6.125,
        iou_weight: float = 25.0,
        least_area: int = 25,
        **kwargs,
    ):
        matching = threshold, background, crowd_threshold, negatives
        super().__init__(scales, max_size, square, max_masks, *matching, box_weight, mask_weight, **kwargs)
        self.iou_weight, self.least_area = iou_weight, least_area

    def call(self, outputs, targets):
        losses, matched = super().call(outputs, targets), outputs["matched"]
        masks = tf.cast(targets["masks"], outputs["masks"].dtype)
        height, width = outputs["masks"].shape[2:]
        small = tf.cast(resized_masks(masks, (height, width)) > 0.5, masks.dtype)
        wanted = tf.reshape(small, (-1, small.shape[1], height * width))
        wanted = take_rows(wanted, tf.maximum(matched, 0))  # (N, Q, h w)
        found = tf.cast(tf.stop_gradient(outputs["masks"]) > 0.5, masks.dtype)
        found, area = tf.reshape(found, (-1, found.shape[1], height * width)), tf.reduce_sum(wanted, 2)
        overlap = tf.reduce_sum(found * wanted, 2)
        counted = (matched >= 0) & (area > self.least_area)
        iou = overlap / tf.where(counted, tf.reduce_sum(found, 2) + area - overlap, 1.0)
        errors = smooth_l1_loss(outputs["mask_ious"][..., None], iou[..., None])
        count = tf.cast(tf.maximum(tf.reduce_sum(outputs["positives"]), 1), masks.dtype)
        loss = self.iou_weight * tf.reduce_sum(tf.where(counted, errors, 0.0)) / count
        return {**losses, "I": loss, "total": losses["total"] + loss}


@keras.saving.register_keras_serializable("diptych")
class YOLACTPlusPostProcess(keras.layers.Layer):
    """The detections in pixels of the image, with the scores of their masks.

    Args:
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: as for :class:`YOLACTPostProcess`, and ``"mask_scores"`` (N, D): score times IoU of the mask.
    """

    def __init__(self, mask_threshold: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.mask_threshold = mask_threshold

    def call(self, outputs, input_size):
        found = drawn_detections(outputs, input_size, self.mask_threshold)
        return {**found, "mask_scores": found["scores"] * outputs["mask_ious"]}


def yolact_plus_base(layers=(3, 4, 23, 3), planes=(64, 128, 256, 512), interval: int = 3, **options) -> YOLACTPlus:
    return YOLACTPlus(YOLACTResNet(layers, planes, DCN, interval), **options)


def yolact_plus_resnet50(layers=(3, 4, 6, 3), interval: int = 1, **options) -> YOLACTPlus:
    return yolact_plus_base(layers=layers, interval=interval, **options)
