"""Losses of the overlap of what is found with what is there: Dice, and the convex extension of the Jaccard index.

"V-Net", 2016, arXiv:1606.04797; "The Lovász-Softmax loss", 2018, arXiv:1705.08790.
Terms and weights: mmsegmentation ``losses/{dice,lovasz}_loss.py`` (Apache-2.0).

Mirror notes:
- The classes are axis 1 in PyTorch, the last axis in TensorFlow.
- TensorFlow's stable sort has an ONNX form, PyTorch's has none: it is stable outside of the export.
"""

import keras
import tensorflow as tf

from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.dice import squared_dice
from tf_impl.losses.segmentation import SegmentationCriterion

__all__ = ["OverlapCriterion", "class_dice", "lovasz_softmax"]


def one_hot(logits, labels, ignore_index: int):
    """(N, H, W, K) bool, where a pixel is of a class; nowhere for ignored ones."""
    chosen = labels[..., None] == tf.range(logits.shape[-1], dtype=labels.dtype)  # mirror: axis 1
    return chosen & (labels != ignore_index)[..., None]


def class_dice(logits, labels, ignore_index: int = 255):
    """1 - the overlap of all classes of an image, each with a probability of its own; the mean of the images.

    Args:
        logits: (N, H, W, K).
        labels: (N, H, W) int.
        ignore_index: label of pixels that are of no class; the reference counts what is found there.

    Returns:
        Scalar.
    """
    wanted = tf.cast(one_hot(logits, labels, ignore_index), logits.dtype)
    count = logits.shape[1] * logits.shape[2] * logits.shape[3]
    flat = (tf.reshape(x, (-1, count)) for x in (tf.sigmoid(logits), wanted))
    return tf.reduce_mean(squared_dice(*flat))


def lovasz_softmax(logits, labels, ignore_index: int = 255, classes: str = "present", per_image: bool = False):
    """1 - the Jaccard index of each class, extended to probabilities (algorithm 1); the mean of the classes.

    Args:
        logits: (N, H, W, K).
        labels: (N, H, W) int, 0-based class indices.
        ignore_index: label of pixels that do not count.
        classes: "present", of which there is a pixel, or "all"; without any the loss is 0.
        per_image: the mean of the images' losses, otherwise the batch is one image.

    Returns:
        Scalar.

    Raises:
        ValueError: for other ``classes``.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes={classes!r} must be 'present' or 'all'")
    count = logits.shape[-1]
    size = (-1, logits.shape[1] * logits.shape[2]) if per_image else (1, -1)
    wanted = one_hot(logits, labels, ignore_index)
    probabilities, wanted = (
        tf.transpose(tf.reshape(x, (*size, count)), (0, 2, 1)) for x in (tf.nn.softmax(logits), wanted)
    )
    valid = tf.reshape(labels != ignore_index, size)[:, None]
    errors = tf.where(wanted, 1 - probabilities, probabilities)  # (N or 1, K, P)
    errors = tf.where(valid, errors, -tf.ones_like(errors))  # those that do not count come last
    order = tf.argsort(tf.stop_gradient(errors), direction="DESCENDING", stable=True)  # mirror: stable sort
    errors = tf.gather(errors, order, batch_dims=2)
    wanted = tf.gather(tf.cast(wanted, logits.dtype), order, batch_dims=2)
    whole = tf.reduce_sum(wanted, -1, keepdims=True)
    left, union = whole - tf.cumsum(wanted, -1), whole + tf.cumsum(1 - wanted, -1)
    jaccard = 1 - left / union  # if the pixels up to this one are wrong
    steps = jaccard - tf.pad(jaccard[..., :-1], [[0, 0], [0, 0], [1, 0]])
    losses = tf.reduce_sum(tf.where(errors < 0, tf.zeros_like(errors), errors) * steps, -1)  # (N or 1, K)
    counted = tf.cast((whole[..., 0] > 0) | (classes == "all"), logits.dtype)
    number = tf.reduce_sum(counted, -1)
    number = tf.where(number > 0, number, tf.ones_like(number))
    return tf.reduce_mean(tf.reduce_sum(losses * counted, -1) / number)


@keras.saving.register_keras_serializable("diptych")
class OverlapCriterion(SegmentationCriterion):
    """Cross-entropies, and the overlap of the map ``"logits"`` with the labels.

    Args:
        dice_weight: of ``"decode.loss_dice"``, see :func:`class_dice`; 3 is mmsegmentation's for retinal vessels.
        lovasz_weight: of ``"decode.loss_lovasz"``, see :func:`lovasz_softmax`.
        per_image: see :func:`lovasz_softmax`.
        options: of :class:`SegmentationCriterion`.

    Inputs, Returns: as of :class:`SegmentationCriterion`; terms of weight 0 are left out.
    """

    def __init__(self, dice_weight: float = 3.0, lovasz_weight: float = 0.0, per_image: bool = False, **options):
        super().__init__(**options)
        self.dice_weight, self.lovasz_weight, self.per_image = dice_weight, lovasz_weight, per_image

    def call(self, outputs, targets):
        labels, losses = targets["labels"], super().call(outputs, targets)
        del losses["total"]
        logits = resize_bilinear(outputs["logits"], map_size(labels[..., None]), self.align_corners)
        if self.dice_weight:
            losses["decode.loss_dice"] = self.dice_weight * class_dice(logits, labels, self.ignore_index)
        if self.lovasz_weight:
            loss = lovasz_softmax(logits, labels, self.ignore_index, per_image=self.per_image)
            losses["decode.loss_lovasz"] = self.lovasz_weight * loss
        return {**losses, "total": sum(losses.values())}
