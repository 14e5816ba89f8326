"""ATSS: one square anchor per cell of a pyramid, and objects that choose their anchors by statistics.

"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", 2019,
arXiv:1912.02424.
Parameter names: mmdet ``dense_heads/atss_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.atss import assign_atss
from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.points import distances_to_sides
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
from tf_impl.detection.fcos import centerness
from tf_impl.layers.rows import take_rows
from tf_impl.layers.scale import Scale
from tf_impl.losses.box import giou_loss
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.losses.focal import sigmoid_focal_loss

__all__ = ["ATSSCriterion", "ATSSHead", "ATSSPostProcess", "atss_r50_fpn", "atss_r101_fpn", "square_anchors"]

STDS = (0.1, 0.1, 0.2, 0.2)
SIZE = 8  # size of the anchors, in strides


def square_anchors(outputs, strides: tuple[int, ...], size: float = SIZE) -> list[np.ndarray]:
    """One square (H * W, 4) xyxy around the upper left corner of every cell, of each level."""
    half = [np.full(2, size * stride / 2) for stride in strides]
    points = level_points(outputs, strides, 0.0)
    return [np.concatenate((p - h, p + h), -1) for p, h in zip(points, half)]


@keras.saving.register_keras_serializable("diptych")
class ATSSHead(DenseHead):
    """Classes, box deltas and centredness of every anchor, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        strides: of the levels.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4) deltas,
        ``"ctr_p3"`` ... (N, H, W, 1) logits.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(channels, num_convs, norm_groups, **kwargs)
        self.atss_cls = self.last(num_classes, PRIOR_BIAS)
        self.atss_reg = self.last(4)
        self.atss_centerness = self.last(1)
        self.scales = [Scale() for _ in strides]

    def call(self, maps, training=False):
        found = {"cls": [], "reg": [], "ctr": []}
        for x, scale in zip(maps.values(), self.scales):
            of_classes, of_boxes = self.towers(x, training)
            found["cls"].append(self.atss_cls(of_classes))
            found["reg"].append(scale(self.atss_reg(of_boxes)))
            found["ctr"].append(self.atss_centerness(of_boxes))
        return self.named(found)


@keras.saving.register_keras_serializable("diptych")
class ATSSCriterion(keras.layers.Layer):
    """Focal loss of the classes, GIoU of the boxes weighted by centredness, cross-entropy of the centredness.

    Args:
        topk: candidates of each level, see :func:`assign_atss`.
        alpha, gamma: of the focal loss.
        box_weight: factor of the boxes' loss.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"total"``.
    """

    def __init__(
        self,
        topk: int = 9,
        alpha: float = 0.25,
        gamma: float = 2.0,
        box_weight: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.topk, self.alpha, self.gamma, self.box_weight = topk, alpha, gamma, box_weight
        self.strides, self.coder = tuple(strides), DeltaCoder(STDS, clamp="both")

    def call(self, outputs, targets):
        logits, deltas, central = rows(outputs, "cls"), rows(outputs, "reg"), rows(outputs, "ctr")[..., 0]
        levels = square_anchors(outputs, self.strides)
        anchors = tf.constant(np.concatenate(levels), logits.dtype)  # (A, 4)
        boxes = tf.cast(targets["boxes"], logits.dtype)
        matched = assign_atss(boxes, targets["valid"], anchors, [len(found) for found in levels], self.topk)
        positive = matched >= 0  # (N, A)
        counts = tf.reduce_sum(tf.cast(positive, logits.dtype), 1)
        count = tf.reduce_sum(tf.maximum(counts, 1.0)) + EPS  # every image counts at least 1

        wanted = one_hot(take_rows(targets["labels"], matched), positive, logits.shape[-1], logits.dtype)
        classification = tf.reduce_sum(sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)) / count

        # an anchor without an object is its own target: finite, and masked
        wanted = tf.stop_gradient(take_rows(boxes, matched))  # mirror: gradients are cut
        wanted = tf.where(positive[..., None], wanted, anchors)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        weight = tf.where(positive, centerness(distances_to_sides(centres, wanted)), 0.0)
        losses = giou_loss(self.coder.decode(deltas, anchors), wanted, guard="max")
        regression = self.box_weight * tf.reduce_sum(losses * weight) / tf.maximum(tf.reduce_sum(weight), 1.0)
        centre = tf.reduce_sum(tf.where(positive, binary_cross_entropy(central, weight), 0.0)) / count
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_centerness": centre,
            "total": classification + regression + centre,
        }


@keras.saving.register_keras_serializable("diptych")
class ATSSPostProcess(DensePostProcess):
    """The best boxes, the class's probability times that of the centredness, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, **kwargs)
        self.coder = DeltaCoder(STDS, clamp="both")

    def decode(self, outputs):
        deltas = rows(outputs, "reg")
        anchors = tf.constant(np.concatenate(square_anchors(outputs, self.strides)), deltas.dtype)
        return self.coder.decode(deltas, anchors)


def atss_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = ATSSHead(out_channels, num_classes, num_convs, norm_groups)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output"), head)


def atss_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return atss_r50_fpn(depth=depth, **options)
