"""EfficientDet: EfficientNet, a pyramid with top-down and bottom-up paths, and heads that share their kernels across
its levels.

"EfficientDet: Scalable and Efficient Object Detection", 2019, arXiv:1911.09070.
Parameter names: effdet 0.4.1 ``efficientdet.py`` (Apache-2.0); ``tf_efficientdet_*`` are the networks of the TensorFlow
release, with its padding and its biases; ``efficientdet_*`` were trained in PyTorch.
What to look at: all variants are one network with three parameters; the heads' normalisations are separate for each
    level.

Mirror notes:
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.coders import clip_boxes
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.classification.efficientnet import DROP_PATH, STAGES, EfficientNet
from tf_impl.detection._dense import LEVELS, PRIOR_BIAS, STRIDES
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import anchor_rows, take_rows
from tf_impl.layers.soft_nms import batched_soft_nms
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.focal import sigmoid_focal_loss
from tf_impl.necks.bifpn import NORM, BiFPN, SeparableConv

__all__ = [
    "EfficientDet",
    "EfficientDetCriterion",
    "EfficientDetPostProcess",
    "HeadNet",
    "efficientdet_anchors",
    "efficientdet_d0",
    "efficientdet_d1",
    "efficientdet_d7_criterion",
    "efficientdet_d7_postprocess",
    "tf_efficientdet_d0",
    "tf_efficientdet_d1",
    "tf_efficientdet_d2",
    "tf_efficientdet_d3",
    "tf_efficientdet_d4",
    "tf_efficientdet_d5",
    "tf_efficientdet_d6",
    "tf_efficientdet_d7",
]

OCTAVES = (0, 1 / 3, 2 / 3)
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # factors of width and height
ANCHORS = len(OCTAVES) * len(ASPECTS)  # of a cell
SIZE_EPS = 1e-8  # added to sizes


def efficientdet_anchors(size: tuple[int, int], stride: int, scale: float = 4.0) -> np.ndarray:
    """The anchors of one level, nine per cell: sizes first, then aspects.

    Args:
        size: (H, W) of the level's map.
        stride: of the level, in pixels.
        scale: size of the smallest square, in strides.

    Returns:
        (H * W * 9, 4) float64, xyxy in pixels.
    """
    y, x = np.meshgrid(*((np.arange(n) + 0.5) * stride for n in size), indexing="ij")
    centres = np.stack([x, y], -1)[:, :, None]  # (H, W, 1, 2)
    halves = np.array([np.multiply(aspect, scale * stride * 2**octave / 2) for octave in OCTAVES for aspect in ASPECTS])
    return np.concatenate([centres - halves, centres + halves], -1).reshape(-1, 4)


def rows(outputs, key: str):
    """All maps ``key_p3`` ... of a model, (N, H, W, 9 * C), as (N, A, C)."""
    found = [outputs[f"{key}_{level}"] for level in LEVELS]
    return tf.concat([anchor_rows(x, x.shape[-1] // ANCHORS) for x in found], 1)


def anchors_of(outputs, scale: float) -> np.ndarray:
    """The anchors of all levels, (A, 4)."""
    sizes = [map_size(outputs[f"class_{level}"]) for level in LEVELS]
    return np.concatenate([efficientdet_anchors(size, stride, scale) for size, stride in zip(sizes, STRIDES)])


@keras.saving.register_keras_serializable("diptych")
class NormAct(keras.layers.Layer):
    """Batch normalisation and swish.  (N, H, W, C), the same shape out."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bn = NORM()

    def call(self, x, training=False):
        return tf.nn.silu(self.bn(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class HeadNet(keras.layers.Layer):
    """Separable convolutions that all levels share, with a separate normalisation per level after each.

    Args:
        hidden: channels of the levels and of the convolutions before the last.
        filters: channels of the output maps.
        repeats: number of convolutions before the last.
        bias: whether they have one although a normalisation follows.
        prior: bias of the last convolution before training.

    Inputs: dict of five levels (N, H, W, C).
    Returns: list of five maps (N, H, W, filters).
    """

    def __init__(self, hidden: int, filters: int, repeats: int, bias: bool, prior: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.conv_rep = [SeparableConv(hidden, bias, norm=False, small=True) for _ in range(repeats)]
        self.bn_rep = [[NormAct() for _ in LEVELS] for _ in range(repeats)]
        self.predict = SeparableConv(filters, True, norm=False, prior=prior, small=True)

    def call(self, maps, training=False):
        found = []
        for i, x in enumerate(maps.values()):
            for conv, norms in zip(self.conv_rep, self.bn_rep):
                x = norms[i](conv(x), training=training)
            found.append(self.predict(x))
        return found


@keras.saving.register_keras_serializable("diptych")
class EfficientDet(Model):
    """Backbone, pyramid, heads.

    Args:
        width, depth: of the backbone, see :class:`EfficientNet`.
        fpn_channels: channels of the pyramid and of the heads.
        fpn_cells: cells of the pyramid.
        repeats: convolutions of each head.
        num_classes: classes K, without a background.
        pad_mode: "same" (the TensorFlow release), "torch" (the same on both sides) or "zeros" ("same", but the pyramid
            pads with 0 when it pools; mmdet).
        bias: whether convolutions have one although a normalisation follows (the TensorFlow release).
        weighted: whether the pyramid's sums are weighted.
        bn_eps, drop_path, stages: of the backbone, see :class:`EfficientNet`.

    Inputs: (N, H, W, 3) float, normalised; H and W multiples of 128.
    Returns: dict: ``"class_p3"`` ... (N, H, W, 9 * K) logits, ``"box_p3"`` ... (N, H, W, 9 * 4) ty, tx, th, tw.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        fpn_channels: int = 64,
        fpn_cells: int = 3,
        repeats: int = 3,
        num_classes: int = 90,
        pad_mode: str = "same",
        bias: bool = True,
        weighted: bool = True,
        bn_eps: float = 1e-3,
        drop_path: float = DROP_PATH,
        stages: tuple[tuple[int, ...], ...] = STAGES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone = EfficientNet(
            width,
            depth,
            0.0,
            stages=stages,
            pad_mode="same" if pad_mode == "zeros" else pad_mode,
            bn_eps=bn_eps,
            drop_path=drop_path,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.fpn = BiFPN(self.backbone.channels, fpn_channels, fpn_cells, bias, pad_mode, weighted)
        self.class_net = HeadNet(fpn_channels, ANCHORS * num_classes, repeats, bias, PRIOR_BIAS)
        self.box_net = HeadNet(fpn_channels, ANCHORS * 4, repeats, bias)

    def call(self, images, training=False):
        levels = self.fpn(self.backbone(images, training=training), training=training)
        nets = {"class": self.class_net, "box": self.box_net}
        heads = {key: net(levels, training=training) for key, net in nets.items()}
        return {f"{key}_{level}": x for key, maps in heads.items() for level, x in zip(LEVELS, maps)}


def encode(boxes, anchors):
    """Boxes as ty, tx, th, tw of anchors.  (..., 4) xyxy twice -> (..., 4)."""
    (size, centre), (wanted, middle) = (
        (b[..., 2:] - b[..., :2] + SIZE_EPS, (b[..., :2] + b[..., 2:]) / 2) for b in (anchors, boxes)
    )
    return tf.concat((tf.reverse((middle - centre) / size, (-1,)), tf.reverse(tf.math.log(wanted / size), (-1,))), -1)


def decode(deltas, anchors):
    """The inverse of :func:`encode`, except for the tiny number."""
    size, centre = anchors[..., 2:] - anchors[..., :2], (anchors[..., :2] + anchors[..., 2:]) / 2
    shift, ratio = tf.reverse(deltas[..., :2], (-1,)), tf.exp(tf.reverse(deltas[..., 2:], (-1,)))
    centre, half = shift * size + centre, ratio * size / 2
    return tf.concat((centre - half, centre + half), -1)


@keras.saving.register_keras_serializable("diptych")
class EfficientDetCriterion(keras.layers.Layer):
    """Focal loss of the classes, Huber loss of the boxes.

    An anchor learns the object that it overlaps most if the overlap is at least one half; an object's best anchor
    learns it in any case.

    Args:
        alpha, gamma: of the focal loss.
        delta: of the Huber loss.
        box_weight: factor of the boxes' loss in the total.
        overlap: smallest IoU of an anchor with its object.
        anchor_scale: see :func:`efficientdet_anchors`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0, ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"class_loss"``, ``"box_loss"``, ``"total"``.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 1.5,
        delta: float = 0.1,
        box_weight: float = 50.0,
        overlap: float = 0.5,
        anchor_scale: float = 4.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.alpha, self.gamma, self.delta, self.box_weight = alpha, gamma, delta, box_weight
        self.overlap, self.anchor_scale = overlap, anchor_scale

    def call(self, outputs, targets):
        logits, deltas = rows(outputs, "class"), rows(outputs, "box")
        anchors = tf.constant(anchors_of(outputs, self.anchor_scale), logits.dtype)
        boxes = tf.cast(targets["boxes"], logits.dtype)
        matched = self._assign(boxes, targets["valid"], anchors)  # (N, A)
        positive = matched >= 0
        count = tf.reduce_sum(tf.cast(positive, logits.dtype)) + 1

        labels = take_rows(targets["labels"], matched)
        classes = tf.range(logits.shape[-1], dtype=labels.dtype)
        wanted = tf.cast((labels[..., None] == classes) & positive[..., None], logits.dtype)
        classification = tf.reduce_sum(sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)) / count

        # an anchor without an object is its own target: finite, and masked
        target = tf.where(positive[..., None], take_rows(boxes, matched), anchors)
        target = tf.stop_gradient(target)  # mirror: Gradients are cut
        target = tf.where(positive[..., None], encode(target, anchors), 0.0)
        away = tf.abs(deltas - target)
        losses = tf.where(away < self.delta, 0.5 * tf.square(away), self.delta * away - 0.5 * self.delta**2)
        regression = tf.reduce_sum(tf.where(target != 0, losses, 0.0)) / (4 * count)
        return {
            "class_loss": classification,
            "box_loss": regression,
            "total": classification + self.box_weight * regression,
        }

    def _assign(self, boxes, valid, anchors):
        """(N, A) int64 the object of every anchor, or -1."""
        valid = valid & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        iou = tf.where(valid[..., None], pairwise_iou(boxes, anchors), -1.0)  # (N, M, A)
        matched = tf.where(tf.reduce_max(iou, 1) >= self.overlap, argmax(iou, 1), -tf.ones([], tf.int64))
        every = tf.range(anchors.shape[0], dtype=tf.int64)
        forced = (argmax(iou, 2)[..., None] == every) & valid[..., None]
        first = argmax(tf.cast(forced, tf.int32), 1)  # of several objects
        return tf.where(tf.reduce_any(forced, 1), first, matched)


@keras.saving.register_keras_serializable("diptych")
class EfficientDetPostProcess(keras.layers.Layer):
    """The best boxes of every image: best pairs of anchor and class, decoding, suppression by class.

    Args:
        candidates: pairs kept over all levels.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        soft: lower the scores of overlapping boxes instead of dropping the boxes, see :func:`batched_soft_nms`.
        sigma, min_score: of the soft suppression.
        anchor_scale: see :func:`efficientdet_anchors`.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images, a pair or (N, 2) integer for
        images that were padded on the right and at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64 from
        0, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        candidates: int = 5000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        soft: bool = False,
        sigma: float = 0.5,
        min_score: float = 0.001,
        anchor_scale: float = 4.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.candidates, self.iou_threshold, self.detections = candidates, iou_threshold, detections
        self.soft, self.sigma, self.min_score, self.anchor_scale = soft, sigma, min_score, anchor_scale

    def call(self, outputs, input_size):
        logits, deltas = rows(outputs, "class"), rows(outputs, "box")
        anchors = tf.constant(anchors_of(outputs, self.anchor_scale), logits.dtype)
        classes = logits.shape[-1]
        number = logits.shape[1] * classes
        found, pairs = top_k(tf.reshape(logits, (-1, number)), min(self.candidates, number))
        index = pairs // classes
        labels, scores = pairs - index * classes, tf.sigmoid(found)
        boxes = decode(take_rows(deltas, index), tf.gather(anchors, index))
        boxes = clip_boxes(boxes, tf.convert_to_tensor(input_size))
        every = tf.ones_like(labels, tf.bool)
        if self.soft:
            options = {"sigma": self.sigma, "min_score": self.min_score}
            index, scores, valid = batched_soft_nms(boxes, scores, labels, every, self.detections, **options)
        else:
            index, valid = batched_nms(boxes, scores, labels, every, self.iou_threshold, self.detections)
            scores = take_rows(scores, index)
        return {
            "boxes": tf.where(valid[..., None], take_rows(boxes, index), tf.zeros([], boxes.dtype)),
            "scores": tf.where(valid, scores, tf.zeros([], scores.dtype)),
            "labels": tf.where(valid, take_rows(labels, index), tf.zeros([], labels.dtype)),
            "valid": valid,
        }


def efficientdet_d7_criterion(anchor_scale: float = 5.0, **options) -> EfficientDetCriterion:
    return EfficientDetCriterion(anchor_scale=anchor_scale, **options)


def efficientdet_d7_postprocess(anchor_scale: float = 5.0, **options) -> EfficientDetPostProcess:
    return EfficientDetPostProcess(anchor_scale=anchor_scale, **options)


def tf_efficientdet_d0(width=1.0, depth=1.0, fpn_channels=64, fpn_cells=3, repeats=3, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d1(width=1.0, depth=1.1, fpn_channels=88, fpn_cells=4, repeats=3, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d2(width=1.1, depth=1.2, fpn_channels=112, fpn_cells=5, repeats=3, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d3(width=1.2, depth=1.4, fpn_channels=160, fpn_cells=6, repeats=4, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d4(width=1.4, depth=1.8, fpn_channels=224, fpn_cells=7, repeats=4, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d5(width=1.6, depth=2.2, fpn_channels=288, fpn_cells=7, repeats=4, **options) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, **options)


def tf_efficientdet_d6(
    width=1.8, depth=2.6, fpn_channels=384, fpn_cells=8, repeats=5, weighted=False, **options
) -> EfficientDet:
    return EfficientDet(width, depth, fpn_channels, fpn_cells, repeats, weighted=weighted, **options)


def tf_efficientdet_d7(**options) -> EfficientDet:
    """D6 for larger images, with larger anchors."""
    return tf_efficientdet_d6(**options)


def efficientdet_d0(pad_mode="torch", bias=False, bn_eps=1e-5, **options) -> EfficientDet:
    return tf_efficientdet_d0(pad_mode=pad_mode, bias=bias, bn_eps=bn_eps, **options)


def efficientdet_d1(pad_mode="torch", bias=False, bn_eps=1e-5, **options) -> EfficientDet:
    return tf_efficientdet_d1(pad_mode=pad_mode, bias=bias, bn_eps=bn_eps, **options)
