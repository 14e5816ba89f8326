"""Softmax over the pairs of a batch: NT-Xent with labels (N-pairs) and the supervised contrastive loss.

"Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016; "Supervised Contrastive Learning",
2020, arXiv:2004.11362 (variants of pytorch-metric-learning 2.9.0, MIT). What to look at: whether an anchor's other
positives are in the denominator.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import (
    active_mean,
    embeddings_of,
    masked_logsumexp,
    masked_mean,
    pair_masks,
    similarities,
    softplus,
)

__all__ = ["NPairsCriterion", "SupConCriterion"]


@keras.saving.register_keras_serializable("diptych")
class NPairsCriterion(keras.layers.Layer):
    """-log(exp(s_p) / (exp(s_p) + sum exp(s_n))) for every pair of one class, s = cosine / temperature; their mean.

    Args:
        temperature: of the cosines.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"n_pairs"``, ``"total"`` (the same).
    """

    def __init__(self, temperature: float = 0.07, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x) / self.temperature
        positives, negatives = pair_masks(targets["labels"])
        loss = masked_mean(softplus(masked_logsumexp(s, negatives, 1)[:, None] - s), positives)
        return {"n_pairs": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class SupConCriterion(keras.layers.Layer):
    """-log softmax over all other rows, averaged over an anchor's positives, then over the anchors with any.

    Args:
        temperature: of the cosines.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"sup_con"``, ``"total"`` (the same).
    """

    def __init__(self, temperature: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x) / self.temperature
        positives, negatives = pair_masks(targets["labels"])
        counted = tf.cast(positives, x.dtype)
        surprise = masked_logsumexp(s, positives | negatives, 1)[:, None] - s
        losses = tf.reduce_sum(counted * surprise, 1) / tf.maximum(tf.reduce_sum(counted, 1), 1)
        loss = active_mean(losses, tf.reduce_any(positives, 1))
        return {"sup_con": loss, "total": loss}
