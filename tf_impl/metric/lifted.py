"""Lifted structure loss: a pair of one class against all negatives of both its members.

"Deep Metric Learning via Lifted Structured Feature Embedding", 2015, arXiv:1511.06452; the generalised variant of
"In Defense of the Triplet Loss for Person Re-Identification", 2017, arXiv:1703.07737, also takes all positives of an
anchor at once.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import distances, embeddings_of, l2_normalize, masked_logsumexp, masked_mean, pair_masks

__all__ = ["LiftedCriterion"]


@keras.saving.register_keras_serializable("diptych")
class LiftedCriterion(keras.layers.Layer):
    """[d(pair) + LSE(margin - d of the negatives of both)]+ squared, halved, averaged over the pairs of one class.

    Args:
        margin: distance of negatives.
        generalized: instead [LSE(d of positives) + LSE(margin - d of negatives)]+ averaged over the anchors.
        normalize: bring embeddings to unit length first.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"lifted"``, ``"total"`` (the same); 0 without a pair that has negatives.
    """

    def __init__(self, margin: float = 1.0, generalized: bool = False, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.margin, self.generalized, self.normalize = margin, generalized, normalize

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        x = l2_normalize(x) if self.normalize else x
        d = distances(x, x)
        positives, negatives = pair_masks(targets["labels"])
        apart = masked_logsumexp(self.margin - d, negatives, 1)
        valid = tf.reduce_any(negatives, 1)
        if self.generalized:
            losses = tf.nn.relu(masked_logsumexp(d, positives, 1) + apart)
            loss = masked_mean(losses, tf.reduce_any(positives, 1) & valid)
        else:  # log(exp(a) + exp(b)) over both members; members of one class have the same negatives
            higher = tf.maximum(apart[:, None], apart[None])
            both = higher + tf.nn.softplus(-tf.abs(apart[:, None] - apart[None]))
            losses = tf.square(tf.nn.relu(both + d)) / 2
            loss = masked_mean(losses, positives & valid[:, None])
        return {"lifted": loss, "total": loss}
