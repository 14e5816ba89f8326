"""Cross-entropy of every pixel, with ignored pixels, class weights and selection of hard pixels; the map of labels.

Mirror notes:
- Written from ``log_softmax`` in both panels: the exporters replace the built-in losses by wrong or missing operators.
- The classes are axis 1 in PyTorch, the last axis in TensorFlow.
"""

import keras
import tensorflow as tf

from tf_impl.layers.resize import map_size, resize_bilinear

__all__ = ["SegmentationCriterion", "SegmentationPostProcess", "hard_pixels", "pixel_cross_entropy"]

EPS = 1.1920929e-07  # of float32; the reference adds it to its divisor


def pixel_losses(logits, labels, ignore_index: int):
    """Cross-entropy of every pixel, 0 where ignored, and which pixels count.

    Args:
        logits: (N, H, W, K).
        labels: (N, H, W) int.
        ignore_index: label of pixels that do not count.

    Returns:
        (N, H, W) float, (N, H, W) bool.
    """
    valid = labels != ignore_index
    log_p = tf.nn.log_softmax(logits, -1)  # mirror: Written from log_softmax
    classes = tf.range(logits.shape[-1], dtype=labels.dtype)
    chosen = (labels[..., None] == classes) & valid[..., None]  # mirror: axis 1
    return -tf.reduce_sum(log_p * tf.cast(chosen, logits.dtype), -1), valid


def hard_pixels(losses, valid, min_kept: int, threshold: float | None = None):
    """Select the pixels that a batch learns from: the hardest ones, at least ``min_kept`` for each image
    (arXiv:1604.03540).

    Args:
        losses: cross-entropies (N, H, W).
        valid: (N, H, W) bool.
        min_kept: pixels per image.
        threshold: also keep every pixel whose class has a smaller probability; if None, keep exactly ``min_kept``.

    Returns:
        (N, H, W) bool.
    """
    kept = min_kept * tf.shape(losses)[0]
    flat = tf.reshape(tf.stop_gradient(tf.where(valid, losses, -tf.ones([], losses.dtype))), [-1])
    if threshold is None:
        order = tf.argsort(flat, direction="DESCENDING", stable=True)
        chosen = tf.argsort(order) < kept
    else:
        # among valid pixels in descending order of losses, that is, in ascending order of probabilities
        ranked = tf.sort(flat, direction="DESCENDING")
        last = tf.maximum(tf.reduce_sum(tf.cast(valid, tf.int32)) - 1, 0)
        bound = tf.exp(-tf.gather(ranked, tf.minimum(last, kept)))
        chosen = tf.exp(-flat) < tf.maximum(bound, tf.cast(threshold, bound.dtype))
    return tf.reshape(chosen, tf.shape(losses)) & valid


def pixel_cross_entropy(
    logits, labels, ignore_index: int = 255, class_weight=None, avg_non_ignore: bool = False, sampler=None
):
    """Mean cross-entropy of the pixels.

    Args:
        logits: (N, H, W, K).
        labels: (N, H, W) int, 0-based class indices.
        ignore_index: label of pixels that add nothing; the reference counts them in the mean anyway.
        class_weight: K weights, or None; the divisor is then the sum of the weights of the labels.
        avg_non_ignore: count only the pixels that are not ignored.
        sampler: chooses the pixels that count from (losses, valid), see :func:`hard_pixels`.

    Returns:
        Scalar.

    Source: mmsegmentation ``losses/cross_entropy_loss.py`` (Apache-2.0).
    """
    losses, valid = pixel_losses(logits, labels, ignore_index)
    count = tf.reduce_sum(tf.ones_like(losses))
    if class_weight is not None:
        weights = tf.gather(tf.constant(class_weight, logits.dtype), tf.where(valid, labels, tf.zeros_like(labels)))
        weights = weights * tf.cast(valid, logits.dtype)
        losses, count = losses * weights, tf.reduce_sum(weights)
    elif avg_non_ignore:
        count = tf.reduce_sum(tf.cast(valid, logits.dtype))
    if sampler is not None:
        losses = losses * tf.cast(sampler(losses, valid), losses.dtype)
    return tf.reduce_sum(losses) / (count + EPS)


@keras.saving.register_keras_serializable("diptych")
class SegmentationCriterion(keras.layers.Layer):
    """Cross-entropy of every map of logits, resized to the labels.

    Args:
        terms: (name of the loss, key of the logits, weight) of each; keys that the model does not return are skipped.
        ignore_index, class_weight, avg_non_ignore: see :func:`pixel_cross_entropy`.
        min_kept, threshold: of the first term, see :func:`hard_pixels`; None lets all pixels count.
        align_corners: of the resizing.

    Inputs: ``outputs`` dict of logits (N, H', W', K); ``targets["labels"]`` (N, H, W) int.
    Returns: dict of scalars: the weighted terms, ``"total"``.
    """

    def __init__(
        self,
        terms=(("decode.loss_ce", "logits", 1.0), ("aux.loss_ce", "aux_logits", 0.4)),
        ignore_index: int = 255,
        class_weight=None,
        avg_non_ignore: bool = False,
        min_kept: int | None = None,
        threshold: float | None = None,
        align_corners: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.terms, self.ignore_index, self.class_weight = tuple(terms), ignore_index, class_weight
        self.avg_non_ignore, self.align_corners = avg_non_ignore, align_corners
        self.min_kept, self.threshold = min_kept, threshold

    def sampler(self, losses, valid):
        """The hard pixels of the first term."""
        return hard_pixels(losses, valid, self.min_kept, self.threshold)

    def call(self, outputs, targets):
        labels, losses = targets["labels"], {}
        for i, (name, key, weight) in enumerate(self.terms):
            if key not in outputs:
                continue
            logits = resize_bilinear(outputs[key], map_size(labels[..., None]), self.align_corners)
            sampler = self.sampler if i == 0 and self.min_kept is not None else None
            loss = pixel_cross_entropy(
                logits, labels, self.ignore_index, self.class_weight, self.avg_non_ignore, sampler
            )
            losses[name] = weight * loss
        return {**losses, "total": sum(losses.values())}


@keras.saving.register_keras_serializable("diptych")
class SegmentationPostProcess(keras.layers.Layer):
    """The class of every pixel of the input.

    Args:
        align_corners: of the resizing of the logits.

    Inputs: ``outputs`` with ``"logits"`` (N, H', W', K); ``input_size`` (H, W) of the image.
    Returns: dict: ``"labels"`` (N, H, W) int64, the class of the largest logit; of equal ones the first.
    """

    def __init__(self, align_corners: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.align_corners = align_corners

    def call(self, outputs, input_size):
        logits = outputs["logits"]
        if tuple(input_size) != map_size(logits):
            logits = resize_bilinear(logits, input_size, self.align_corners)
        return {"labels": tf.argmax(logits, -1)}
