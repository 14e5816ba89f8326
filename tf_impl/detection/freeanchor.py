"""FreeAnchor: RetinaNet without a fixed assignment; of the fifty anchors nearest to an object the most probable learn
it.

"FreeAnchor: Learning to Match Anchors for Visual Object Detection", 2019, arXiv:1909.02466.
Parameter names and losses: mmdet ``dense_heads/free_anchor_retina_head.py`` (Apache-2.0).
What to look at: a bag's probability is a mean whose weights follow the probabilities themselves, and the gradient
flows through both.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.detection.retinanet import (
    LEVELS,
    MMDetRetinaNet,
    RetinaNetPostProcess,
    retinanet_r50_fpn_mmdet,
    retinanet_r101_fpn_mmdet,
)
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.losses.box import smooth_l1_loss

__all__ = ["FreeAnchorCriterion", "FreeAnchorPostProcess", "freeanchor_r50_fpn", "freeanchor_r101_fpn"]

STDS = (0.1, 0.1, 0.2, 0.2)  # of the coder
IOU_EPS = 1e-6
EPS = 1e-12


@keras.saving.register_keras_serializable("diptych")
class FreeAnchorCriterion(keras.layers.Layer):
    """Loss of every object's bag probability, and of all anchors being background where no object claims them.

    Args:
        bag: anchors of an object's bag, those that overlap it most.
        threshold: overlap of a prediction with an object from which on it gradually stops being background.
        alpha: weight of the objects in the loss.
        gamma: power of the background's probability.
        box_weight, beta: of the smooth L1 loss, whose negative exponential is a box's probability.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"positive_bag_loss"``, ``"negative_bag_loss"``, ``"total"``.
    """

    def __init__(
        self,
        bag: int = 50,
        threshold: float = 0.6,
        alpha: float = 0.5,
        gamma: float = 2.0,
        box_weight: float = 0.75,
        beta: float = 0.11,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bag, self.threshold, self.alpha, self.gamma = bag, threshold, alpha, gamma
        self.box_weight, self.beta, self.coder = box_weight, beta, DeltaCoder(STDS, "both")

    def call(self, outputs, targets):
        probability, deltas = tf.sigmoid(outputs["cls_logits"]), outputs["bbox_regression"]
        anchors = tf.concat([outputs[f"anchors_{level}"] for level in LEVELS], 0)  # (A, 4)
        dtype, boxes, labels = deltas.dtype, tf.cast(targets["boxes"], deltas.dtype), targets["labels"]
        valid = targets["valid"] & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        slots, size, one, zero = (
            boxes.shape[1],
            min(self.bag, anchors.shape[0]),
            tf.ones([], dtype),
            tf.zeros([], dtype),
        )
        boxes = tf.where(valid[..., None], boxes, anchors[0])  # padding gets a box with an area: finite, and masked
        classes = tf.range(probability.shape[-1], dtype=labels.dtype)
        one_hot = tf.cast(labels[..., None] == classes, dtype)  # (N, M, K)

        _, index = top_k(pairwise_iou(boxes, anchors, IOU_EPS), size)  # (N, M, bag)
        rows = tf.reshape(index, (-1, slots * size))
        chosen = tf.reshape(take_rows(probability, rows), (-1, slots, size, probability.shape[-1]))
        of_class = tf.reduce_sum(chosen * one_hot[:, :, None], -1)
        wanted = self.coder.encode(tf.repeat(boxes[:, :, None], size, 2), tf.gather(anchors, index))
        found = tf.reshape(take_rows(deltas, rows), (-1, slots, size, 4))
        both = of_class * tf.exp(-self.box_weight * smooth_l1_loss(found, wanted, self.beta))
        weight = 1 / tf.maximum(1 - both, EPS)
        together = tf.reduce_sum(weight / tf.reduce_sum(weight, -1, keepdims=True) * both, -1)  # (N, M)
        count = tf.maximum(tf.reduce_sum(tf.cast(valid, dtype)), 1.0)
        losses = tf.where(valid, -tf.math.log(tf.where(valid, together, one)), zero)
        positive = self.alpha * tf.reduce_sum(losses) / count

        predicted = tf.stop_gradient(self.coder.decode(deltas, anchors))  # mirror: gradients are cut
        iou = pairwise_iou(boxes, predicted, IOU_EPS)  # (N, M, A)
        most = tf.maximum(tf.reduce_max(iou, -1, keepdims=True), self.threshold + EPS)
        claim = tf.clip_by_value((iou - self.threshold) / (most - self.threshold), 0.0, 1.0)
        claim = tf.where(valid[..., None], claim, zero)
        claimed = tf.zeros_like(probability)
        for i in range(slots):  # one slot at a time: all of them at once would be M times as large as the logits
            claimed = tf.maximum(claimed, claim[:, i, :, None] * one_hot[:, i, None])
        wrong = tf.clip_by_value(probability * (1 - claimed), EPS, 1 - EPS)
        negative = tf.reduce_sum(wrong**self.gamma * -tf.math.log(1 - wrong))
        negative = (1 - self.alpha) * negative / (count * self.bag)
        return {"positive_bag_loss": positive, "negative_bag_loss": negative, "total": positive + negative}


@keras.saving.register_keras_serializable("diptych")
class FreeAnchorPostProcess(RetinaNetPostProcess):
    """RetinaNet's results as in mmdet, with the coder of the losses.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`RetinaNetPostProcess`.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        **kwargs,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, "both", True, **kwargs)
        self.coder = DeltaCoder(STDS, "both")


def freeanchor_r50_fpn(**options) -> MMDetRetinaNet:
    return retinanet_r50_fpn_mmdet(**options)


def freeanchor_r101_fpn(**options) -> MMDetRetinaNet:
    return retinanet_r101_fpn_mmdet(**options)
