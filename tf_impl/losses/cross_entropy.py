"""Cross-entropy of class logits: label smoothing, class weights, ignored rows, auxiliary heads.

Mirror notes:
- Written from ``log_softmax`` in both panels: the exporter drops the label smoothing of ``F.cross_entropy``.
"""

import keras
import tensorflow as tf

from tf_impl.layers.top_k import top_k

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "cross_entropy", "sparse_cross_entropy"]


def cross_entropy(logits, labels, weight=None, label_smoothing: float = 0.0, ignore_index: int = -100):
    """Mean cross-entropy over the rows that count.

    Args:
        logits: (..., K) float.
        labels: (...) int, 0-based class indices; ``ignore_index`` marks rows that do not count.
        weight: (K,) float, weight of each class; rows are averaged by the weight of their label.
        label_smoothing: share of the target that is spread over all K classes, in [0, 1).
        ignore_index: label of the rows that are ignored.

    Returns:
        Scalar; 0 if no row counts (``F.cross_entropy`` gives NaN there).

    Source: arXiv:1512.00567, section 7.
    """
    classes = logits.shape[-1]
    log_p = tf.nn.log_softmax(logits, axis=-1)  # mirror: Written from log_softmax
    valid = labels != ignore_index
    target = tf.one_hot(tf.where(valid, labels, 0), classes, dtype=logits.dtype)
    counted = tf.cast(valid, logits.dtype)
    if weight is None:
        weight = tf.ones(classes, dtype=logits.dtype)
    smoothed = (1 - label_smoothing) * target + label_smoothing / classes
    losses = -tf.reduce_sum(smoothed * weight * log_p, -1) * counted
    total = tf.reduce_sum(tf.reduce_sum(target * weight, -1) * counted)
    return tf.reduce_sum(losses) / tf.maximum(total, 1e-12)


def sparse_cross_entropy(logits, labels):
    """Mean cross-entropy over the rows that count; gathers the label's logit, which saves a vector per row.

    Args:
        logits: (..., K) float.
        labels: (...) int, 0-based class indices; -100 marks rows that do not count.

    Returns:
        Scalar; 0 if no row counts.
    """
    log_p = tf.nn.log_softmax(logits, axis=-1)
    valid = labels != -100
    picked = tf.gather(log_p, tf.where(valid, labels, 0), batch_dims=labels.shape.rank)
    counted = tf.cast(valid, logits.dtype)
    return -tf.reduce_sum(picked * counted) / tf.maximum(tf.reduce_sum(counted), 1)


@keras.saving.register_keras_serializable("diptych")
class ClassificationCriterion(keras.layers.Layer):
    """Cross-entropy of the logits, plus that of auxiliary heads by weight.

    Args:
        label_smoothing: see :func:`cross_entropy`.
        weight: weights of the classes, or None.
        auxiliary: weight of each auxiliary output by its key.

    Inputs: ``outputs`` the logits (N, K), or a dict with ``"logits"`` and the auxiliary logits; ``targets["labels"]``
        (N,) int, -100 is ignored.
    Returns: dict of scalars: ``"cross_entropy"``, one per auxiliary key, ``"total"``.
    Raises: ValueError if the model returns no output under an auxiliary key.
    """

    def __init__(self, label_smoothing: float = 0.0, weight=None, auxiliary=None, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.weight = None if weight is None else tuple(weight)
        self.auxiliary = dict(auxiliary or {})

    def call(self, outputs, targets):
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        missing = [key for key in self.auxiliary if key not in outputs]
        if missing:
            hint = "build it with its auxiliary heads, or pass auxiliary={}"
            raise ValueError(f"auxiliary={self.auxiliary}: the model returns no {', '.join(missing)}; {hint}")
        logits = outputs["logits"]
        weight = None if self.weight is None else tf.constant(self.weight, dtype=logits.dtype)

        def loss(logits):
            return cross_entropy(logits, targets["labels"], weight, self.label_smoothing)

        losses = {"cross_entropy": loss(logits)}
        total = losses["cross_entropy"]
        for key, share in self.auxiliary.items():
            losses[key] = loss(outputs[key])
            total = total + share * losses[key]
        return {**losses, "total": total}


@keras.saving.register_keras_serializable("diptych")
class ClassificationPostProcess(keras.layers.Layer):
    """The most probable classes and their probabilities.

    Args:
        k: how many.

    Inputs: the logits (N, K), or a dict with ``"logits"``.
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64; ties: lower index first.
    """

    def __init__(self, k: int = 5, **kwargs):
        super().__init__(**kwargs)
        self.k = k

    def call(self, outputs):
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        scores, classes = top_k(tf.nn.softmax(logits, axis=-1), self.k)
        return {"scores": scores, "classes": tf.cast(classes, tf.int64)}
