"""RetinaNet with harmonised gradients: gradients of common sizes, those of easy examples and outliers, count less.

"Gradient Harmonized Single-stage Detector", 2018, arXiv:1811.05181.
Parameter names: mmdet ``RetinaNet`` with ``losses/ghm_loss.py`` (Apache-2.0): running counts are in the head.

Mirror notes:
- The running counts are non-trainable variables here, buffers in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.assignment import IGNORED, assign_max_iou
from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.detection.retinanet import LEVELS, MMDetRetinaNet, retinanet_mmdet_postprocess
from tf_impl.layers.rows import take_rows
from tf_impl.losses.ghm import ghm_classification_loss, ghm_regression_loss

__all__ = [
    "GHMCriterion",
    "GHMRetinaNet",
    "GHMTrainer",
    "GradientBins",
    "retinanet_mmdet_postprocess",
    "retinanet_r50_fpn_ghm",
]

CLASS_BINS, BOX_BINS = 30, 10
LAST_CLASS_EDGE, LAST_BOX_EDGE = 1 + 1e-6, 1e3  # the last bins contain 1


@keras.saving.register_keras_serializable("diptych")
class GradientBins(keras.layers.Layer):
    """Running counts of gradients by size; a model stores them for its checkpoints.

    Args:
        bins: number of bins, of equal width.
        last_edge: where the last bin ends.
    """

    def __init__(self, bins: int, last_edge: float, **kwargs):
        super().__init__(**kwargs)
        edges = (np.arange(bins + 1) / bins).astype(np.float32)
        edges[-1] = last_edge
        self.edges = self.add_weight(  # mirror: non-trainable
            name="edges",
            shape=(bins + 1,),
            initializer=lambda shape, dtype=None: tf.constant(edges, dtype),
            trainable=False,
        )
        self.acc_sum = self.add_weight(name="acc_sum", shape=(bins,), initializer="zeros", trainable=False)


@keras.saving.register_keras_serializable("diptych")
class GHMRetinaNet(MMDetRetinaNet):
    """RetinaNet whose head keeps the running counts of its losses.

    Args:
        options: of :class:`MMDetRetinaNet`.

    Inputs and returns: as there, plus ``"acc_cls"`` (30,) and ``"acc_bbox"`` (10,), the running counts.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.bbox_head.loss_cls = GradientBins(CLASS_BINS, LAST_CLASS_EDGE)
        self.bbox_head.loss_bbox = GradientBins(BOX_BINS, LAST_BOX_EDGE)

    def call(self, images, training=False):
        outputs, head = super().call(images, training), self.bbox_head
        counts = {"acc_cls": head.loss_cls.acc_sum, "acc_bbox": head.loss_bbox.acc_sum}
        return {**outputs, **{key: tf.convert_to_tensor(value) for key, value in counts.items()}}


@keras.saving.register_keras_serializable("diptych")
class GHMCriterion(keras.layers.Layer):
    """GHM-C of the classes, GHM-R of the deltas; level by level, fine to coarse, with counts carried along.

    Args:
        class_momentum, box_momentum: of the running counts.
        mu: see :func:`ghm_regression_loss`.
        box_weight: factor of the boxes' loss.
        positive, negative: of the assignment, see :func:`assign_max_iou`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        class_momentum: float = 0.75,
        box_momentum: float = 0.7,
        mu: float = 0.02,
        box_weight: float = 10.0,
        positive: float = 0.5,
        negative: float = 0.4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.class_momentum, self.box_momentum, self.mu, self.box_weight = class_momentum, box_momentum, mu, box_weight
        self.positive, self.negative, self.coder = positive, negative, DeltaCoder(clamp="both")

    def call(self, outputs, targets):
        return self.losses_and_counts(outputs, targets)[0]

    def losses_and_counts(self, outputs, targets):
        """The losses, and the updated running counts of classes and boxes."""
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        levels = [outputs[f"anchors_{level}"] for level in LEVELS]
        anchors, boxes = tf.concat(levels, 0), tf.cast(targets["boxes"], logits.dtype)
        valid = targets["valid"] & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        iou = pairwise_iou(boxes, anchors)  # (N, M, A)
        matched = assign_max_iou(iou, valid, self.positive, self.negative, "forced")  # (N, A)
        foreground = (matched >= 0)[..., None]
        labels = take_rows(targets["labels"], matched)
        classes = tf.range(logits.shape[-1], dtype=labels.dtype)
        wanted = tf.cast((labels[..., None] == classes) & foreground, logits.dtype)  # (N, A, K)
        # an anchor without ground truth is its own target: finite, and masked
        target = tf.where(foreground, take_rows(boxes, matched), anchors)
        differences = deltas - self.coder.encode(target, anchors)
        of_classes = tf.broadcast_to((matched != IGNORED)[..., None], tf.shape(logits))
        of_boxes = tf.broadcast_to(foreground, tf.shape(deltas))

        classification = regression = tf.zeros([], logits.dtype)
        acc_cls, acc_bbox, start = outputs["acc_cls"], outputs["acc_bbox"], 0
        for level in levels:
            own = slice(start, start + level.shape[0])
            loss, acc_cls = ghm_classification_loss(
                logits[:, own], wanted[:, own], of_classes[:, own], acc_cls, self.class_momentum
            )
            classification = classification + loss
            loss, acc_bbox = ghm_regression_loss(
                differences[:, own], of_boxes[:, own], acc_bbox, self.box_momentum, self.mu
            )
            regression = regression + self.box_weight * loss
            start += level.shape[0]
        losses = {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}
        return losses, (acc_cls, acc_bbox)


class GHMTrainer:
    """Plain gradient steps; the running counts are written to the model after each.

    Args:
        model: a :class:`GHMRetinaNet`.
        criterion: a :class:`GHMCriterion`.
        learning_rate: of stochastic gradient descent.
    """

    def __init__(self, model, criterion, learning_rate: float = 2.0**-7):
        self.model, self.criterion, self.learning_rate = model, criterion, learning_rate

    def step(self, inputs, targets) -> dict:
        """One step; the losses before it."""
        with tf.GradientTape() as tape:
            outputs = self.model(*inputs.values(), training=True)
            losses, counts = self.criterion.losses_and_counts(outputs, targets)
        variables, head = self.model.trainable_variables, self.model.bbox_head
        for variable, gradient in zip(variables, tape.gradient(losses["total"], variables), strict=True):
            variable.assign_sub(self.learning_rate * gradient)
        for bins, value in zip((head.loss_cls, head.loss_bbox), counts):
            bins.acc_sum.assign(value)
        return losses


def retinanet_r50_fpn_ghm(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> GHMRetinaNet:
    return GHMRetinaNet(layers=layers, **options)
