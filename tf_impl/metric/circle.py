"""Circle loss: every similarity has its own weight, which grows with the distance from its optimum.

"Circle Loss: A Unified Perspective of Pair Similarity Optimization", 2020, arXiv:2002.10857. Two variants: on the pairs
of a batch, and on classes (a softmax). What to look at: the weights carry no gradient; and one loss for all pairs of
the batch (the first implementation, TinyZeaMays/CircleLoss) differs from the mean over anchors (fast-reid,
Apache-2.0; pytorch-metric-learning, MIT).

Mirror notes:
- Constant weights: ``detach`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
"""

import keras
import tensorflow as tf

from tf_impl.losses.margin import classify, encode
from tf_impl.losses.pairwise import (
    active_mean,
    embeddings_of,
    masked_logsumexp,
    pair_masks,
    similarities,
    softplus,
)

__all__ = ["CircleCriterion", "CircleSoftmaxCriterion", "circle_logits"]


def circle_logits(s, margin: float, gamma: float):
    """Logits of similarities, both as pairs of one class and as pairs of two.

    Args:
        s: cosines of any shape.
        margin: m; the optima are 1 + m and -m, the boundaries 1 - m and m.
        gamma: scale.

    Returns:
        together, apart: of the same shape; the first falls towards the optimum, too.
    """
    together = -gamma * tf.stop_gradient(tf.nn.relu(1 + margin - s)) * (s - 1 + margin)  # mirror: Constant weights
    apart = gamma * tf.stop_gradient(tf.nn.relu(s + margin)) * (s - margin)
    return together, apart


@keras.saving.register_keras_serializable("diptych")
class CircleCriterion(keras.layers.Layer):
    """softplus(LSE(logits of pairs of one class) + LSE(logits of pairs of two)).

    Args:
        margin, gamma: see :func:`circle_logits`.
        reduction: "anchor" has one loss per anchor and averages those above 0; "batch" one for all pairs, each taken
            once.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"circle"``, ``"total"`` (the same); anchors (or a batch) without both kinds of pairs
        give 0.
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, margin: float = 0.25, gamma: float = 256.0, reduction: str = "anchor", **kwargs):
        super().__init__(**kwargs)
        if reduction not in ("anchor", "batch"):
            raise ValueError(f"reduction={reduction!r} must be 'anchor' or 'batch'")
        self.margin, self.gamma, self.reduction = margin, gamma, reduction

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        together, apart = circle_logits(similarities(x, x), self.margin, self.gamma)
        positives, negatives = pair_masks(targets["labels"])
        if self.reduction == "batch":
            row = tf.range(tf.shape(x)[0])
            once = row[:, None] < row[None]
            positives, negatives = (tf.reshape(mask & once, (1, -1)) for mask in (positives, negatives))
            together, apart = tf.reshape(together, (1, -1)), tf.reshape(apart, (1, -1))
        losses = softplus(masked_logsumexp(together, positives, 1) + masked_logsumexp(apart, negatives, 1))
        loss = active_mean(losses, tf.reduce_any(positives, 1) & tf.reduce_any(negatives, 1))
        return {"circle": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class CircleSoftmaxCriterion(keras.layers.Layer):
    """Cross-entropy of the circle's logits of classes.

    Args:
        num_classes, embedding_size: K and D.
        scale: gamma of :func:`circle_logits`.
        margin: see there.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int, -1 does
        not count.
    Returns: dict of scalars: ``"circle"``, ``"total"`` (the same).
    """

    def __init__(self, num_classes: int, embedding_size: int, scale: float = 64.0, margin: float = 0.35, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.margin = scale, margin
        self.weight = self.add_weight(
            name="weight",
            shape=(num_classes, embedding_size),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )

    def logits(self, cosines, labels):
        """Logits (N, K) of cosines (N, K) and labels (N,)."""
        together, apart = circle_logits(cosines, self.margin, self.scale)
        return apart - encode(labels, cosines.shape[1], cosines.dtype) * (together + apart)

    def call(self, outputs, targets):
        cosines = similarities(embeddings_of(outputs), self.weight)
        loss = classify(self.logits(cosines, targets["labels"]), targets["labels"])
        return {"circle": loss, "total": loss}
