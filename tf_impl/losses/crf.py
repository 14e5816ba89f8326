"""Linear-chain conditional random field: likelihood of a sequence of tags, and the most probable one.

"Conditional Random Fields: Probabilistic Models for Segmenting and Labeling Sequence Data", ICML 2001. Parameter names:
kmkurn/pytorch-crf ``torchcrf/__init__.py`` (MIT). The recursions loop over time in Python and are vectorised over texts
and tags; they consist of ordinary operations, so they are differentiable, work in every float type and export.

Mirror notes:
- TensorFlow gathers by rows of indices; PyTorch indexes with one tensor per axis.
"""

import keras
import tensorflow as tf

from tf_impl.layers.top_k import argmax
from tf_impl.losses.ctc import logsumexp

__all__ = ["BMES", "CRF", "CRFCriterion", "CRFPostProcess", "crf_decode", "crf_nll"]

ILLEGAL = -1e4  # added to the score of what is ruled out
REDUCTIONS = ("none", "sum", "mean", "token_mean")
# what is ruled out for the tags B, M, E, S of Chinese characters: at the start, from row to column, at the end
BMES = (
    (False, True, True, False),
    (
        (True, False, False, True),
        (True, False, False, True),
        (False, True, True, False),
        (False, True, True, False),
    ),
    (True, True, False, False),
)


def crf_nll(emissions, tags, valid, start_transitions, end_transitions, transitions, reduction: str = "none"):
    """Negative log-likelihood of sequences of tags.

    Args:
        emissions: (N, T, K) float, scores of the tags; T is static.
        tags: (N, T) int, 0-based; ignored after the end of a text.
        valid: (N, T), not 0 for the tags that count, which come first; an empty text has no loss.
        start_transitions, end_transitions: (K,), scores of the first and of the last tag.
        transitions: (K, K), score of a tag (column) after another (row).
        reduction: "none", "sum", "mean" over the texts, or "token_mean" over the tags.

    Returns:
        (N,) float, or a scalar.

    Raises:
        ValueError: if ``reduction`` is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    valid = valid != 0
    tags = tf.where(valid, tags, tf.zeros_like(tags))
    counted = tf.cast(valid, emissions.dtype)
    emitted = tf.reduce_sum(emissions * tf.one_hot(tags, emissions.shape[2], dtype=emissions.dtype), 2)
    score = tf.reduce_sum(emitted * counted, 1) + tf.gather(start_transitions, tags[:, 0])
    pairs = tf.stack([tags[:, :-1], tags[:, 1:]], -1)
    score = score + tf.reduce_sum(tf.gather_nd(transitions, pairs) * counted[:, 1:], 1)  # mirror: rows of indices
    last = tf.maximum(tf.reduce_sum(tf.cast(valid, tf.int64), 1) - 1, 0)
    score = score + tf.gather(end_transitions, tf.gather(tags, last, batch_dims=1))
    alpha = start_transitions + emissions[:, 0]  # log of the sum over all prefixes that end in a tag, (N, K)
    for t in range(1, emissions.shape[1]):
        following = logsumexp(alpha[:, :, None] + transitions, 1) + emissions[:, t]
        alpha = tf.where(valid[:, t, None], following, alpha)
    losses = (logsumexp(alpha + end_transitions, 1) - score) * counted[:, 0]
    if reduction == "none":
        return losses
    if reduction == "mean":
        return tf.reduce_mean(losses)
    total = tf.reduce_sum(losses)
    return total / tf.reduce_sum(counted) if reduction == "token_mean" else total


def crf_decode(emissions, valid, start_transitions, end_transitions, transitions):
    """The best sequence of tags of every text (Viterbi); ties go to the lower tags, from the end on.

    Args: those of :func:`crf_nll`.

    Returns:
        tags: (N, T) int64, -1 after the end.
        scores: (N,) float.
    """
    valid = valid != 0
    best = start_transitions + emissions[:, 0]
    stay = tf.broadcast_to(tf.range(emissions.shape[2], dtype=tf.int64), tf.shape(best))
    steps = []  # predecessor of each tag, (N, K)
    for t in range(1, emissions.shape[1]):
        moves = best[:, :, None] + transitions
        steps.append(tf.where(valid[:, t, None], argmax(moves, 1), stay))
        best = tf.where(valid[:, t, None], tf.reduce_max(moves, 1) + emissions[:, t], best)
    best = best + end_transitions
    path = [argmax(best, 1)]
    for step in reversed(steps):
        path.append(tf.gather(step, path[-1], batch_dims=1))
    tags = tf.stack(path[::-1], 1)
    return tf.where(valid, tags, -tf.ones_like(tags)), tf.reduce_max(best, 1)


@keras.saving.register_keras_serializable("diptych")
class CRF(keras.layers.Layer):
    """Transition scores of tags, added to their emissions.

    Args:
        num_tags: tags K.
        constraints: what is ruled out at the start (K), from tag to tag (K, K) and at the end (K), such as
            :data:`BMES`; or None.

    Inputs: ``emissions`` (N, T, K) float; ``mask`` (N, T) int, 1 = tag, 0 = padding.
    Returns: dict, everything that :class:`CRFCriterion` and :class:`CRFPostProcess` need: ``"emissions"``; the mask as
        ``"valid"`` (N, T) float; ``"start_transitions"`` (K,), ``"end_transitions"`` (K,), ``"transitions"`` (K, K).
    """

    def __init__(self, num_tags: int, constraints=None, **kwargs):
        super().__init__(**kwargs)
        # an initialiser repeats its values
        start, end, between = (keras.initializers.RandomUniform(-0.1, 0.1) for _ in range(3))
        self.start_transitions = self.add_weight(name="start_transitions", shape=(num_tags,), initializer=start)
        self.end_transitions = self.add_weight(name="end_transitions", shape=(num_tags,), initializer=end)
        self.transitions = self.add_weight(name="transitions", shape=(num_tags, num_tags), initializer=between)
        self.constraints = constraints

    def call(self, emissions, mask):
        parts = (self.start_transitions, self.transitions, self.end_transitions)
        start, between, end = (tf.convert_to_tensor(part) for part in parts)
        if self.constraints is not None:
            ruled_out = (tf.cast(tf.constant(part), emissions.dtype) * ILLEGAL for part in self.constraints)
            start, between, end = (a + b for a, b in zip((start, between, end), ruled_out, strict=True))
        return {
            "emissions": emissions,
            "valid": tf.cast(mask, emissions.dtype),
            "start_transitions": start,
            "end_transitions": end,
            "transitions": between,
        }


@keras.saving.register_keras_serializable("diptych")
class CRFCriterion(keras.layers.Layer):
    """Negative log-likelihood of the right tags.

    Args:
        reduction: "sum", "mean" over the texts, or "token_mean" over the tags.

    Inputs: ``outputs`` of :class:`CRF`; ``targets["tags"]`` (N, T) int; ignored after the end of a text.
    Returns: dict of scalars: ``"nll"``, ``"total"`` (the same).
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, reduction: str = "mean", **kwargs):
        super().__init__(**kwargs)
        if reduction not in REDUCTIONS[1:]:
            raise ValueError(f"reduction must be one of {REDUCTIONS[1:]}, got {reduction!r}")
        self.reduction = reduction

    def call(self, outputs, targets):
        loss = crf_nll(**outputs, tags=targets["tags"], reduction=self.reduction)
        return {"nll": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class CRFPostProcess(keras.layers.Layer):
    """The best sequence of tags.

    Inputs: ``outputs`` of :class:`CRF`.
    Returns: dict: ``"tags"`` (N, T) int64, -1 after the end; ``"scores"`` (N,) float.
    """

    def call(self, outputs):
        tags, scores = crf_decode(**outputs)
        return {"tags": tags, "scores": scores}
