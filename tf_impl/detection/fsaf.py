"""FSAF: no anchors, and every object is learnt on the level of the pyramid with its smallest loss.

"Feature Selective Anchor-Free Module for Single-Shot Object Detection", 2019, arXiv:1903.00621; its anchor-free branch
alone, as in mmdet.
Parameter names: mmdet ``dense_heads/fsaf_head.py`` (Apache-2.0).

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.iou import box_area, pairwise_iou
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
    one_hot,
    rows,
)
from tf_impl.detection.atss import square_anchors
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax
from tf_impl.losses.dense import iou_loss
from tf_impl.losses.focal import sigmoid_focal_loss

__all__ = ["FSAFCriterion", "FSAFHead", "FSAFPostProcess", "fsaf_r50_fpn", "fsaf_r101_fpn"]

SCALE = 4.0  # the distances' unit, in strides
LEAST = 1e-4  # lower bound of distances
LEAST_SHARE = 0.01  # share of a cell that an object's core must cover
NOWHERE = 1e8  # area of an object that a cell does not belong to
NO_CELL = 1e6  # loss of an object on a level where it has no cell


@keras.saving.register_keras_serializable("diptych")
class FSAFHead(DenseHead):
    """Classes and distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4) top, bottom, left, right, in
        four strides.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4, **kwargs):
        super().__init__(channels, num_convs, None, **kwargs)
        self.retina_cls = self.last(num_classes, PRIOR_BIAS)
        self.retina_reg = self.last(4, 0.25)

    def call(self, maps, training=False):
        found = {"cls": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x, training)
            found["cls"].append(self.retina_cls(of_classes))
            found["reg"].append(tf.nn.relu(self.retina_reg(of_boxes)))
        return self.named(found)


def decode_distances(distances, cells):
    """Boxes from distances (N, A, 4) top, bottom, left, right to the centres of cells (A, 4) xyxy -> (N, A, 4) xyxy."""
    distances = tf.where(distances > LEAST, distances, LEAST)
    top, bottom, left, right = (distances[..., i] * SCALE * (cells[:, 2] - cells[:, 0]) for i in range(4))
    x, y = (cells[:, 0] + cells[:, 2]) / 2, (cells[:, 1] + cells[:, 3]) / 2
    return tf.stack((x - left, y - top, x + right, y + bottom), -1)


@keras.saving.register_keras_serializable("diptych")
class FSAFCriterion(keras.layers.Layer):
    """Focal loss of the classes and IoU loss of the boxes, on every object's best level.

    A cell belongs to the smallest object whose core it touches and that contains its centre. For the classes of other
    objects whose core it touches, the cell is neither positive nor negative, even for its own class.

    Args:
        core: size of an object's core relative to its own.
        alpha, gamma: of the focal loss.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        core: float = 0.2,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.core, self.alpha, self.gamma, self.strides = core, alpha, gamma, tuple(strides)

    def call(self, outputs, targets):
        logits, distances = rows(outputs, "cls"), rows(outputs, "reg")
        levels = square_anchors(outputs, self.strides, 1.0)
        cells = tf.constant(np.concatenate(levels), logits.dtype)  # (A, 4)
        counts = [len(found) for found in levels]
        level_of = tf.constant(np.repeat(np.arange(len(counts)), counts), tf.int64)  # (A,)
        boxes, labels = tf.cast(targets["boxes"], logits.dtype), targets["labels"]
        classes, zero = logits.shape[-1], tf.zeros([], logits.dtype)

        matched, unclear = self._assign(boxes, targets["valid"], cells)  # (N, A), (N, A, M)
        known = one_hot(labels, targets["valid"], classes, logits.dtype)  # (N, M, K)
        ignored = tf.matmul(tf.cast(unclear, logits.dtype), known)  # (N, A, K)
        found = one_hot(take_rows(labels, matched), matched >= 0, classes, logits.dtype)
        positive = tf.reduce_sum(found * tf.where(ignored > 0, zero, tf.ones_like(found)), -1) > 0
        wanted = found * tf.cast(positive[..., None], logits.dtype)

        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        losses = tf.where(ignored > 0, zero, losses)  # (N, A, K)
        # a cell without an object is its own target: finite, and masked
        target = tf.stop_gradient(take_rows(boxes, matched))  # mirror: gradients are cut
        target = tf.where(positive[..., None], target, cells)
        overlaps = tf.where(positive, iou_loss(decode_distances(distances, cells), target), 0.0)  # (N, A)

        slots = tf.range(boxes.shape[1], dtype=tf.int64)[:, None]
        mine = tf.cast((matched[:, None] == slots) & positive[:, None], logits.dtype)  # (N, M, A)
        together = tf.stop_gradient(tf.reduce_sum(losses, -1) + overlaps)[:, None]  # (N, 1, A)
        means, start = [], 0
        for count in counts:
            of_level = mine[..., start : start + count]
            number = tf.reduce_sum(of_level, -1)
            mean = tf.reduce_sum(of_level * together[..., start : start + count], -1) / tf.maximum(number, 1.0)
            means.append(tf.where(number > 0, mean, NO_CELL))
            start += count
        best = argmax(-tf.stack(means, 1), 1)  # (N, M); of equal losses the first level

        chosen = positive & (take_rows(best, matched) == level_of)
        number = tf.reduce_sum(tf.cast(chosen, logits.dtype))
        every = tf.reduce_sum(tf.ones_like(overlaps))
        divisor = tf.where(number > 0, number, every) + EPS
        # where another level was chosen, the class is neither positive nor negative
        losses = tf.where((wanted > 0) & ~chosen[..., None], zero, losses)
        classification = tf.reduce_sum(losses) / divisor
        regression = tf.reduce_sum(tf.where(chosen, overlaps, zero)) / divisor
        return {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}

    def _assign(self, boxes, valid, cells):
        """(N, A) int64 the object of every cell or -1, (N, A, M) bool the other objects that it touches."""
        centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2 * self.core
        core = tf.concat((centre - half, centre + half), -1)
        touches = (pairwise_iou(cells, core, 1e-6, "iof") > LEAST_SHARE) & valid[:, None]  # (N, A, M)
        centres = ((cells[:, :2] + cells[:, 2:]) / 2)[:, None]
        inside = touches & tf.reduce_all(distances_to_sides(centres, boxes[:, None]) > 0, -1)
        index = argmax(-tf.where(inside, box_area(boxes)[:, None], NOWHERE), 2)  # the first of equal areas
        matched = tf.where(tf.reduce_any(inside, 2), index, -tf.ones([], tf.int64))
        slots = tf.range(boxes.shape[1], dtype=tf.int64)
        return matched, touches & (slots != matched[..., None])


@keras.saving.register_keras_serializable("diptych")
class FSAFPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        distances = rows(outputs, "reg")
        cells = tf.constant(np.concatenate(square_anchors(outputs, self.strides, 1.0)), distances.dtype)
        return decode_distances(distances, cells)


def fsaf_r50_fpn(
    depth: int = 50, num_classes: int = 80, out_channels: int = 256, num_convs: int = 4, **options
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = FSAFHead(out_channels, num_classes, num_convs)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_input"), head)


def fsaf_r101_fpn(depth: int = 101, **options) -> DenseDetector:
    return fsaf_r50_fpn(depth=depth, **options)
