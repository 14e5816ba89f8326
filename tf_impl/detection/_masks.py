"""Common parts of two-stage detectors with masks: where masks are computed, their loss, their results.

Mirror notes:
- NHWC here, NCHW in PyTorch: here the classes of mask logits are moved to the front afterwards, there they come first
  already.
"""

import keras
import tensorflow as tf

from tf_impl.detection._two_stage import TwoStageCriterion, of_class
from tf_impl.layers.rows import take_rows
from tf_impl.losses.dense import binary_cross_entropy
from tf_impl.rois.masks import mask_targets

__all__ = ["MaskCriterion", "MaskPostProcess", "mask_loss", "with_masks"]

SHARE = 0.25  # of the sampled proposals may be positive; only these have masks


def with_masks(head, found: dict, maps, image_size, targets=None, given: bool = False) -> dict:
    """Add masks to the second stage's outputs.

    Args:
        head: a :class:`RoIHead` with ``segment``, which makes logits (N * R, S, S, K) of boxes (N, R, 4), and
            ``postprocess``, which finds the best boxes.
        found: the second stage's outputs.
        maps, image_size, targets, given: see :class:`RoIHead`.

    Returns:
        ``found`` and ``"mask_logits"``: with targets (N, P, S, S) of the objects' classes for the first P proposals,
        all positive ones among them; for given proposals (N, P, K, S, S); otherwise (N, D, S, S) of the classes of the
        best boxes, which are added: ``"boxes"``, ``"scores"``, ``"labels"``, ``"valid"``.
    """
    boxes, labels = found["proposals"], None
    if targets is not None:
        boxes = boxes[:, : int(head.samples * SHARE)]
        labels = take_rows(targets["labels"], found["matched"][:, : boxes.shape[1]])
    elif not given:
        found = found | head.postprocess({**found, "image_size": image_size})
        boxes, labels = found["boxes"], found["labels"]
    logits = head.segment(maps, boxes)
    logits = tf.transpose(logits, (0, 3, 1, 2))  # mirror: come first
    logits = tf.reshape(logits, (-1, boxes.shape[1] or tf.shape(boxes)[1], *logits.shape[1:]))
    return {**found, "mask_logits": logits if labels is None else of_class(logits, labels)}


def mask_loss(logits, proposals, matched, masks, binary: bool):
    """Mean cross-entropy over the positive boxes of a batch.

    Args:
        logits: (N, P, S, S).
        proposals: (N, P, 4) and more.
        matched: (N, P) and more, see :func:`sample_rois`.
        masks, binary: see :func:`mask_targets`.

    Returns:
        Scalar, 0 if there are none.
    """
    count, size = logits.shape[1], logits.shape[3]
    proposals, matched = proposals[:, :count], matched[:, :count]
    wanted = mask_targets(proposals, matched, masks, size, binary)
    positive = matched >= 0
    losses = tf.where(positive[..., None, None], binary_cross_entropy(logits, wanted), 0.0)
    return tf.reduce_sum(losses) / (tf.maximum(tf.reduce_sum(tf.cast(positive, logits.dtype)), 1.0) * size**2)


@keras.saving.register_keras_serializable("diptych")
class MaskCriterion(TwoStageCriterion):
    """The losses of boxes and classes, and the cross-entropy of the masks of positive proposals.

    Args:
        convention, anchor_beta, box_beta, inside, samples: see :class:`TwoStageCriterion`.

    Inputs: as for :class:`TwoStageCriterion`; ``targets["masks"]`` (N, M, H, W), 0 or 1.
    Returns: as for :class:`TwoStageCriterion`, and ``"loss_mask"``.
    """

    def call(self, outputs, targets):
        losses = {**self.anchor_losses(outputs, targets), **self.box_losses(outputs, targets)}
        rows = outputs["proposals"], outputs["matched"], targets["masks"]
        losses["loss_mask"] = mask_loss(outputs["mask_logits"], *rows, not self.convention.background_first)
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class MaskPostProcess(keras.layers.Layer):
    """The best boxes, already found by the model, with their masks.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool, ``"masks"`` (N, D, S, S) probabilities inside the boxes; where not valid, the
        others are 0. :func:`paste_masks` pastes them into the image.
    """

    def call(self, outputs):
        masks = tf.sigmoid(outputs["mask_logits"])
        return {
            **{key: outputs[key] for key in ("boxes", "scores", "labels", "valid")},
            "masks": tf.where(outputs["valid"][..., None, None], masks, 0.0),
        }
