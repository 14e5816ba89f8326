"""Generalised focal loss: class scores as qualities, and distances as distributions.

"Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection", 2020,
arXiv:2006.04388.
Parameter names: mmdet ``dense_heads/gfl_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
- The numbers 0, 1, ... of the distribution are a non-trainable variable here, a buffer in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.atss import assign_atss
from tf_impl.boxes.points import boxes_of_distances, distances_to_sides
from tf_impl.detection._dense import (
    EPS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    dense_neck,
    level_points,
    one_hot,
    rows,
)
from tf_impl.detection.atss import square_anchors
from tf_impl.layers.rows import take_rows
from tf_impl.layers.scale import Scale
from tf_impl.losses.box import giou_loss
from tf_impl.losses.dense import paired_iou, quality_focal_loss

__all__ = [
    "GFLCriterion",
    "GFLHead",
    "GFLPostProcess",
    "Integral",
    "distribution_focal_loss",
    "expected_distances",
    "gfl_r50_fpn",
    "gfl_r101_fpn",
]

REG_MAX = 16


def numbers_from_zero(shape, dtype=None):
    """0, 1, 2, ... as initial values."""
    return tf.range(shape[0], dtype=dtype or "float32")


@keras.saving.register_keras_serializable("diptych")
class Integral(keras.layers.Layer):
    """The numbers 0 to ``reg_max``, whose expected value is a distance; a model stores them for its checkpoints.

    Args:
        reg_max: the largest number.
    """

    def __init__(self, reg_max: int = REG_MAX, **kwargs):
        super().__init__(**kwargs)
        self.reg_max = reg_max
        self.project = self.add_weight(  # mirror: buffer
            name="project", shape=(reg_max + 1,), initializer=numbers_from_zero, trainable=False
        )

    def call(self, x):
        """(N, P, 4 * (R + 1)) logits, concatenated -> (N, P, 4)."""
        return expected_distances(x, self.reg_max)


def expected_distances(x, reg_max: int):
    """(N, P, 4 * (R + 1)) logits, concatenated -> (N, P, 4) expected values of 0 to R."""
    x = tf.nn.softmax(tf.reshape(x, (-1, x.shape[1], 4, reg_max + 1)), -1)
    return tf.reduce_sum(x * tf.range(reg_max + 1, dtype=x.dtype), -1)


def distribution_focal_loss(logits, targets, reg_max: int):
    """Cross-entropy against the two integers around a target, weighted by closeness (equation 6).

    Args:
        logits: (N, P, 4 * (R + 1)).
        targets: (N, P, 4) from 0 to below R.
        reg_max: R.

    Returns:
        (N, P), summed over the four sides.
    """
    logits = tf.reshape(logits, (-1, logits.shape[1], 4, reg_max + 1))
    shifted = logits - tf.reduce_max(tf.stop_gradient(logits), -1, keepdims=True)
    likelihood = shifted - tf.math.log(tf.reduce_sum(tf.exp(shifted), -1, keepdims=True))
    numbers = tf.range(reg_max + 1, dtype=logits.dtype)
    # a target's two neighbours have 1 minus their distance to it, all others 0
    nearness = tf.maximum(1 - tf.abs(targets[..., None] - numbers), 0.0)
    return -tf.reduce_sum(likelihood * nearness, (-1, -2))


@keras.saving.register_keras_serializable("diptych")
class GFLHead(DenseHead):
    """Classes and distributions of distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        reg_max: distances are 0 to this many strides, R.
        strides: of the levels.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4 * (R + 1)) logits of left, top,
        right, bottom.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        reg_max: int = REG_MAX,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(channels, num_convs, norm_groups, **kwargs)
        self.gfl_cls = self.last(num_classes, PRIOR_BIAS)
        self.gfl_reg = self.last(4 * (reg_max + 1))
        self.scales = [Scale() for _ in strides]
        self.integral = Integral(reg_max)

    def call(self, maps, training=False):
        found = {"cls": [], "reg": []}
        for x, scale in zip(maps.values(), self.scales):
            of_classes, of_boxes = self.towers(x, training)
            found["cls"].append(self.gfl_cls(of_classes))
            found["reg"].append(scale(self.gfl_reg(of_boxes)))
        return self.named(found)


@keras.saving.register_keras_serializable("diptych")
class GFLCriterion(keras.layers.Layer):
    """Quality focal loss of the classes, GIoU of the boxes, distribution focal loss of the distances.

    The quality is the IoU of the predicted box; the boxes' losses are weighted by the best class's probability.

    Args:
        topk: candidates of each level, see :func:`assign_atss`.
        reg_max: see :class:`GFLHead`.
        beta: of the quality focal loss.
        box_weight, distribution_weight: factors of the boxes' losses.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_dfl"``, ``"total"``.
    """

    def __init__(
        self,
        topk: int = 9,
        reg_max: int = REG_MAX,
        beta: float = 2.0,
        box_weight: float = 2.0,
        distribution_weight: float = 0.25,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.topk, self.reg_max, self.beta, self.strides = topk, reg_max, beta, tuple(strides)
        self.box_weight, self.distribution_weight = box_weight, distribution_weight

    def call(self, outputs, targets):
        logits, sides = rows(outputs, "cls"), rows(outputs, "reg")
        levels = square_anchors(outputs, self.strides)
        anchors = tf.constant(np.concatenate(levels), logits.dtype)  # (A, 4)
        per_anchor = np.repeat(self.strides, [len(found) for found in levels])[:, None]
        stride = tf.constant(per_anchor, logits.dtype)  # (A, 1)
        boxes = tf.cast(targets["boxes"], logits.dtype)
        matched = assign_atss(boxes, targets["valid"], anchors, [len(found) for found in levels], self.topk)
        positive = matched >= 0  # (N, A)
        counts = tf.reduce_sum(tf.cast(positive, logits.dtype), 1)
        count = tf.reduce_sum(tf.maximum(counts, 1.0)) + EPS  # every image counts at least 1

        # an anchor without an object is its own target: finite, and masked
        wanted = tf.stop_gradient(take_rows(boxes, matched))  # mirror: gradients are cut
        wanted = tf.where(positive[..., None], wanted, anchors) / stride
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2 / stride
        found = boxes_of_distances(centres, expected_distances(sides, self.reg_max))
        quality = tf.stop_gradient(tf.where(positive, paired_iou(found, wanted), 0.0))
        present = one_hot(take_rows(targets["labels"], matched), positive, logits.shape[-1], logits.dtype)
        losses = quality_focal_loss(logits, present * quality[..., None], self.beta)
        classification = tf.reduce_sum(losses) / count

        weight = tf.stop_gradient(tf.where(positive, tf.reduce_max(tf.sigmoid(logits), -1), 0.0))
        divisor = tf.maximum(tf.reduce_sum(weight), 1.0)
        regression = self.box_weight * tf.reduce_sum(giou_loss(found, wanted, guard="max") * weight) / divisor
        distances = tf.clip_by_value(distances_to_sides(centres, wanted), 0.0, self.reg_max - 0.1)
        losses = distribution_focal_loss(sides, distances, self.reg_max)
        distribution = self.distribution_weight * tf.reduce_sum(losses * weight) / 4 / divisor
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_dfl": distribution,
            "total": classification + regression + distribution,
        }


@keras.saving.register_keras_serializable("diptych")
class GFLPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.
        reg_max: see :class:`GFLHead`.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        reg_max: int = REG_MAX,
        **kwargs,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, **kwargs)
        self.reg_max = reg_max

    def decode(self, outputs):
        distances = expected_distances(rows(outputs, "reg"), self.reg_max)
        levels = level_points(outputs, self.strides, 0.0)
        stride = np.repeat(self.strides, [len(points) for points in levels])[:, None]
        distances = distances * tf.constant(stride, distances.dtype)
        return boxes_of_distances(tf.constant(np.concatenate(levels), distances.dtype), distances)


def gfl_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    reg_max: int = REG_MAX,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = GFLHead(out_channels, num_classes, num_convs, norm_groups, reg_max)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output"), head)


def gfl_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return gfl_r50_fpn(depth=depth, **options)
