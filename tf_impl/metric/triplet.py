"""Triplet losses: an anchor should be closer to its own class than to any other, by a margin.

"FaceNet: A Unified Embedding for Face Recognition and Clustering", 2015, arXiv:1503.03832; "In Defense of the Triplet
Loss for Person Re-Identification", 2017, arXiv:1703.07737; "Deep Learning for Person Re-identification: A Survey and
Outlook" (weighted regularisation), 2020, arXiv:2001.04193. What to look at: which triplets of a batch are taken
(``mining``), and whether their losses are averaged over all or over those above 0.
"""

import keras
import tensorflow as tf

from tf_impl.losses.pairwise import (
    active_mean,
    distances,
    embeddings_of,
    hardest,
    l2_normalize,
    lowest,
    masked_mean,
    pair_masks,
    softplus,
    squared_distances,
    violations,
)

__all__ = ["TripletCriterion", "triplet_all", "triplet_facenet", "triplet_hard", "triplet_weighted"]

MININGS = ("all", "hard", "semihard", "semihard_all", "weighted")
SELF = 1e-6  # a row's distance from itself, which rounding may raise to 1e-3


def semihard(d, positives, negatives, margin: float):
    """One negative for every pair: the nearest beyond the positive and within the margin, else the farthest.

    Returns: as :func:`violations`, (N, N) by anchor and positive.
    """
    apart = d[:, None, :]
    within = negatives[:, None, :] & (apart > d[:, :, None]) & (apart < d[:, :, None] + margin)
    nearest = tf.reduce_min(tf.where(within, apart, -lowest(d)), 2)
    farthest = hardest(d, negatives, True)[0][:, None]
    return d - tf.where(tf.reduce_any(within, 2), nearest, farthest), positives & tf.reduce_any(negatives, 1)[:, None]


def weighted(d, mask, sign: float):
    """Distances of a mask, averaged with weights exp(sign * d), (N,); 1e-6 is added to the sum as in fast-reid."""
    counted = tf.cast(mask, d.dtype)
    d = d * counted
    weights = tf.exp(sign * d - tf.stop_gradient(tf.reduce_max(sign * d, 1, keepdims=True))) * counted
    return tf.reduce_sum(d * weights / (tf.reduce_sum(weights, 1, keepdims=True) + 1e-6), 1)


@keras.saving.register_keras_serializable("diptych")
class TripletCriterion(keras.layers.Layer):
    """[d(anchor, positive) - d(anchor, negative) + margin]+ over the triplets of a batch.

    Args:
        mining: "hard" takes the farthest positive and the nearest negative of every anchor; "all" every triplet;
            "semihard" FaceNet's one negative for every pair; "semihard_all" every triplet whose negative is farther
            than the positive by at most the margin; "weighted" soft averages of all positives and of all negatives (the
            anchor itself is among its positives, as in fast-reid).
        margin: see above; in units of the distance.
        soft: softplus instead of the hinge.
        squared: squared distances.
        normalize: bring embeddings to unit length first.
        swap: with "all" and "semihard_all", see :func:`violations` (anchor swap).
        reduction: "mean" over all triplets that were taken, or "active" over those with a loss above 0.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"triplet"``, ``"total"`` (the same); 0 if the batch has no triplet.
    Raises: ValueError if ``mining`` or ``reduction`` is unknown, or ``mining`` has no swap.
    """

    def __init__(
        self,
        mining: str = "hard",
        margin: float = 0.3,
        soft: bool = False,
        squared: bool = False,
        normalize: bool = False,
        swap: bool = False,
        reduction: str = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mining not in MININGS:
            raise ValueError(f"mining={mining!r} must be one of {MININGS}")
        if reduction not in ("mean", "active"):
            raise ValueError(f"reduction={reduction!r} must be 'mean' or 'active'")
        if swap and mining not in ("all", "semihard_all"):
            raise ValueError(f"swap=True needs mining 'all' or 'semihard_all', got mining={mining!r}")
        self.mining, self.margin, self.soft, self.squared = mining, margin, soft, squared
        self.normalize, self.swap, self.reduction = normalize, swap, reduction

    def call(self, outputs, targets):
        x = embeddings_of(outputs)
        if self.normalize:
            x = l2_normalize(x)
        d = squared_distances(x, x) if self.squared else distances(x, x)
        positives, negatives = pair_masks(targets["labels"])
        valid = tf.reduce_any(positives, 1) & tf.reduce_any(negatives, 1)
        if self.mining == "hard":
            values = hardest(d, positives, True)[0] - hardest(d, negatives, False)[0]
        elif self.mining == "weighted":
            d = tf.where(positives | negatives, d, tf.constant(SELF, d.dtype))
            values = weighted(d, ~negatives, 1.0) - weighted(d, negatives, -1.0)
        elif self.mining == "semihard":
            values, valid = semihard(d, positives, negatives, self.margin)
        else:
            values, valid = violations(d, positives, negatives, self.swap)
            if self.mining == "semihard_all":
                valid = valid & (values < 0) & (values >= -self.margin)
        losses = softplus(values + self.margin) if self.soft else tf.nn.relu(values + self.margin)
        loss = (masked_mean if self.reduction == "mean" else active_mean)(losses, valid)
        return {"triplet": loss, "total": loss}


def triplet_facenet(
    mining: str = "semihard", margin: float = 0.2, squared: bool = True, normalize: bool = True, **options
):
    return TripletCriterion(mining=mining, margin=margin, squared=squared, normalize=normalize, **options)


def triplet_hard(mining: str = "hard", margin: float = 0.3, **options):
    return TripletCriterion(mining=mining, margin=margin, **options)


def triplet_all(mining: str = "all", margin: float = 0.2, reduction: str = "active", **options):
    return TripletCriterion(mining=mining, margin=margin, reduction=reduction, **options)


def triplet_weighted(mining: str = "weighted", margin: float = 0.0, soft: bool = True, **options):
    return TripletCriterion(mining=mining, margin=margin, soft=soft, **options)
