"""Margin loss with distance-weighted sampling: negatives at all distances, not just hard or easy ones.

"Sampling Matters in Deep Embedding Learning", 2017, arXiv:1706.07567 (MXNet gluon ``embedding_learning``, Apache-2.0).
Random points on a sphere are nearly all at the same distance; negatives are drawn with the inverse of that density.
What
to look at: the random numbers are an input.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import embeddings_of, l2_normalize, lowest, pair_masks, squared_distances

__all__ = ["MarginCriterion", "dws_negatives", "dws_weights"]

EPS = 1e-8  # added to a squared distance
NEAREST, FARTHEST = 0.5, 1.4  # smaller distances count as 0.5; beyond 1.4 a negative has no loss


def pair_distances(x):
    """Distances of all pairs of rows, (N, D) -> (N, N), with an epsilon inside the root."""
    return tf.sqrt(squared_distances(x, x) + EPS)


def dws_weights(embeddings, labels):
    """Probability that a row is drawn as an anchor's negative: inverse density of its distance on the sphere.

    Args:
        embeddings: (N, D) of unit length.
        labels: (N,) int.

    Returns:
        (N, N); rows sum to 1, with 0 for the anchor's own class and beyond a distance of 1.4. An anchor without any
        such row has the same probability for all its negatives.

    Source: section 4.1 of the paper.
    """
    size = embeddings.shape[1]
    negatives = pair_masks(labels)[1]
    d = tf.stop_gradient(pair_distances(embeddings))
    near = tf.maximum(d, NEAREST)
    # a distance of 2 (opposite points) has no finite weight; it is beyond the cut-off anyway
    inner = tf.maximum(1 - tf.square(near) / 4, EPS)
    weights = (2 - size) * tf.math.log(near) - (size - 3) / 2 * tf.math.log(inner)
    chosen = negatives & (d < FARTHEST)
    weights = tf.where(chosen, weights, lowest(d))
    weights = tf.exp(weights - tf.reduce_max(weights, 1, keepdims=True)) * tf.cast(chosen, d.dtype)
    weights = tf.where(tf.reduce_any(chosen, 1, keepdims=True), weights, tf.cast(negatives, d.dtype))
    return weights / tf.maximum(tf.reduce_sum(weights, 1, keepdims=True), EPS)


def dws_negatives(weights, uniform):
    """Rows drawn by their probability: the first whose cumulative sum exceeds the random number.

    Args:
        weights: (N, N), see :func:`dws_weights`.
        uniform: (N, k) random numbers in [0, 1).

    Returns:
        (N, k) int64.
    """
    reached = tf.cumsum(weights, 1)[:, None] <= uniform[:, :, None]  # (N, k, N)
    # rounding may leave the last sum below 1: choose a row that can be drawn
    last = tf.cast(weights > 0, tf.int64) * tf.range(tf.shape(weights, tf.int64)[1])
    return tf.minimum(tf.reduce_sum(tf.cast(reached, tf.int64), 2), tf.reduce_max(last, 1, keepdims=True))


@keras.saving.register_keras_serializable("diptych")
class MarginCriterion(keras.layers.Layer):
    """[d(positive) - beta + alpha]+ + [beta - d(negative) + alpha]+, summed, divided by the number of terms above 0.

    Args:
        num_classes: number of learned boundaries; None for one boundary for all.
        beta: the boundary between near and far; its initial value where it is learned.
        alpha: margin on both sides of the boundary.
        nu: weight of the learned boundaries, summed over the anchors of the triplets.
        samples_per_class: 0 takes every triplet; k takes, for every anchor, its first k - 1 positives, each with one
            negative by distance-weighted sampling.
        form: "margin", or "triplet": [d(positive)^2 - d(negative)^2 + alpha]+ on the same triplets.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``, which are scaled to unit length;
        ``targets``: ``"labels"`` (N,) int, 0-based; ``"uniform"`` (N, k - 1) float in [0, 1), with sampling.
    Returns: dict of scalars: ``"margin"``, ``"beta"`` (the regulariser), ``"total"`` (their sum).
    Raises: ValueError if ``form`` is unknown.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        beta: float = 1.2,
        alpha: float = 0.2,
        nu: float = 0.0,
        samples_per_class: int = 0,
        form: str = "margin",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if form not in ("margin", "triplet"):
            raise ValueError(f"form={form!r} must be 'margin' or 'triplet'")
        self.alpha, self.nu, self.samples_per_class, self.form = alpha, nu, samples_per_class, form
        self.learned = num_classes is not None
        self.beta = beta
        if self.learned:
            self.beta = self.add_weight(
                name="beta", shape=(num_classes,), initializer=keras.initializers.Constant(beta)
            )

    def triplets(self, x, targets):
        """Distances (to the positive, to the negative) of the triplets and their mask, of shapes that broadcast."""
        d = pair_distances(x)
        positives, negatives = pair_masks(targets["labels"])
        if not self.samples_per_class:
            return d[:, :, None], d[:, None, :], positives[:, :, None] & negatives[:, None, :]
        seen = tf.cumsum(tf.cast(positives, tf.int64), 1)
        wanted = tf.range(self.samples_per_class - 1, dtype=tf.int64)
        positive = tf.reduce_sum(tf.cast(seen[:, None] <= wanted[:, None], tf.int64), 2)  # (N, k - 1)
        positive = tf.minimum(positive, tf.shape(x, tf.int64)[0] - 1)
        negative = dws_negatives(dws_weights(x, targets["labels"]), targets["uniform"])
        valid = (seen[:, -1:] > wanted) & tf.reduce_any(negatives, 1, keepdims=True)
        return tf.gather(d, positive, batch_dims=1), tf.gather(d, negative, batch_dims=1), valid

    def call(self, outputs, targets):
        x = l2_normalize(embeddings_of(outputs))
        near, far, valid = self.triplets(x, targets)
        labels = targets["labels"]
        beta = (
            tf.gather(self.beta, labels) if self.learned else tf.fill(tf.shape(labels), tf.constant(self.beta, x.dtype))
        )
        beta = tf.reshape(beta, [-1] + [1] * (valid.shape.rank - 1))
        if self.form == "triplet":
            losses = [tf.nn.relu(tf.square(near) - tf.square(far) + self.alpha)]
        else:
            losses = [tf.nn.relu(near - beta + self.alpha), tf.nn.relu(beta - far + self.alpha)]
        losses = [term * tf.cast(valid, x.dtype) for term in losses]
        count = tf.maximum(sum(tf.reduce_sum(tf.cast(term > 0, x.dtype)) for term in losses), 1)
        loss = sum(tf.reduce_sum(term) for term in losses) / count
        penalty = tf.zeros_like(loss)
        if self.learned:
            penalty = self.nu * tf.reduce_sum(beta * tf.cast(valid, x.dtype)) / count
        return {"margin": loss, "beta": penalty, "total": loss + penalty}
