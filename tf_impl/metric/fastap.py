"""FastAP: the average precision of every anchor's ranking, made differentiable by soft histograms of the distances.

"Deep Metric Learning to Rank", CVPR 2019 (kunhe/FastAP-metric-learning, MIT; its hand-written gradient is the
derivative of the formula here). The listwise loss of naver/deep-image-retrieval is the same with 20 bins.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import embeddings_of, l2_normalize, masked_mean, pair_masks

__all__ = ["FastAPCriterion"]


@keras.saving.register_keras_serializable("diptych")
class FastAPCriterion(keras.layers.Layer):
    """1 - average precision, over the anchors with a positive.

    Args:
        bins: intervals of the squared distance of unit vectors, from 0 to 4; there is one centre more than intervals.
        normalize: scale embeddings to unit length first; the reference leaves that to the network.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"fastap"``, ``"total"`` (the same); 0 if no anchor has a positive.
    """

    def __init__(self, bins: int = 10, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        self.bins, self.normalize = bins, normalize

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        positives, negatives = pair_masks(targets["labels"])
        x = l2_normalize(x) if self.normalize else x
        square = 2 - 2 * tf.matmul(x, x, transpose_b=True)
        width = 4 / self.bins
        centers = tf.range(self.bins + 1, dtype=x.dtype) * width
        pulse = tf.nn.relu(1 - tf.abs(square[:, :, None] - centers) / width)  # (N, N, L)
        hits = tf.reduce_sum(pulse * tf.cast(positives, x.dtype)[:, :, None], 1)  # (N, L)
        everyone = tf.reduce_sum(pulse * tf.cast(positives | negatives, x.dtype)[:, :, None], 1)
        total_hits, total = tf.cumsum(hits, 1), tf.cumsum(everyone, 1)
        reached = total > 0
        precision = tf.where(reached, total_hits, tf.zeros_like(total)) / tf.where(reached, total, tf.ones_like(total))
        count = tf.reduce_sum(tf.cast(positives, x.dtype), 1)
        average = tf.reduce_sum(hits * precision, 1) / tf.maximum(count, 1)
        loss = masked_mean(1 - average, count > 0)
        return {"fastap": loss, "total": loss}
