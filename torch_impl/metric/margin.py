"""Margin loss with distance-weighted sampling: negatives at all distances, not just hard or easy ones.

"Sampling Matters in Deep Embedding Learning", 2017, arXiv:1706.07567 (MXNet gluon ``embedding_learning``, Apache-2.0).
Random points on a sphere are nearly all at the same distance; negatives are drawn with the inverse of that density.
What
to look at: the random numbers are an input.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.pairwise import embeddings_of, l2_normalize, lowest, pair_masks, squared_distances

__all__ = ["MarginCriterion", "dws_negatives", "dws_weights"]

EPS = 1e-8  # added to a squared distance
NEAREST, FARTHEST = 0.5, 1.4  # smaller distances count as 0.5; beyond 1.4 a negative has no loss


def pair_distances(x):
    """Distances of all pairs of rows, (N, D) -> (N, N), with an epsilon inside the root."""
    return (squared_distances(x, x) + EPS).sqrt()


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
    d = pair_distances(embeddings).detach()
    near = d.clamp(min=NEAREST)
    # a distance of 2 (opposite points) has no finite weight; it is beyond the cut-off anyway
    inner = (1 - near.square() / 4).clamp(min=EPS)
    weights = (2 - size) * near.log() - (size - 3) / 2 * inner.log()
    chosen = negatives & (d < FARTHEST)
    weights = torch.where(chosen, weights, lowest(d))
    weights = (weights - weights.amax(1, keepdim=True)).exp() * chosen.to(d.dtype)
    weights = torch.where(chosen.any(1, keepdim=True), weights, negatives.to(d.dtype))
    return weights / weights.sum(1, keepdim=True).clamp(min=EPS)


def dws_negatives(weights, uniform):
    """Rows drawn by their probability: the first whose cumulative sum exceeds the random number.

    Args:
        weights: (N, N), see :func:`dws_weights`.
        uniform: (N, k) random numbers in [0, 1).

    Returns:
        (N, k) int64.
    """
    reached = weights.cumsum(1)[:, None] <= uniform[:, :, None]  # (N, k, N)
    # rounding may leave the last sum below 1: choose a row that can be drawn
    last = (weights > 0).long() * torch.arange(weights.shape[1], device=weights.device)
    return torch.minimum(reached.long().sum(2), last.amax(1, keepdim=True))


class MarginCriterion(nn.Module):
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
    ):
        super().__init__()
        if form not in ("margin", "triplet"):
            raise ValueError(f"form={form!r} must be 'margin' or 'triplet'")
        self.alpha, self.nu, self.samples_per_class, self.form = alpha, nu, samples_per_class, form
        self.learned = num_classes is not None
        self.beta = nn.Parameter(torch.full((num_classes,), beta)) if self.learned else beta

    def triplets(self, x, targets):
        """Distances (to the positive, to the negative) of the triplets and their mask, of shapes that broadcast."""
        d = pair_distances(x)
        positives, negatives = pair_masks(targets["labels"])
        if not self.samples_per_class:
            return d[:, :, None], d[:, None, :], positives[:, :, None] & negatives[:, None, :]
        seen = positives.long().cumsum(1)
        wanted = torch.arange(self.samples_per_class - 1, device=x.device)
        positive = (seen[:, None] <= wanted[:, None]).long().sum(2).clamp(max=x.shape[0] - 1)  # (N, k - 1)
        negative = dws_negatives(dws_weights(x, targets["labels"]), targets["uniform"])
        valid = (seen[:, -1:] > wanted) & negatives.any(1, keepdim=True)
        return d.gather(1, positive), d.gather(1, negative), valid

    def forward(self, outputs, targets):
        x = l2_normalize(embeddings_of(outputs))
        near, far, valid = self.triplets(x, targets)
        beta = self.beta[targets["labels"]] if self.learned else x.new_full((x.shape[0],), self.beta)
        beta = beta.reshape(-1, *[1] * (valid.ndim - 1))
        if self.form == "triplet":
            losses = [F.relu(near.square() - far.square() + self.alpha)]
        else:
            losses = [F.relu(near - beta + self.alpha), F.relu(beta - far + self.alpha)]
        losses = [term * valid.to(x.dtype) for term in losses]
        count = sum((term > 0).to(x.dtype).sum() for term in losses).clamp(min=1)
        loss = sum(term.sum() for term in losses) / count
        penalty = self.nu * (beta * valid.to(x.dtype)).sum() / count if self.learned else torch.zeros_like(loss)
        return {"margin": loss, "beta": penalty, "total": loss + penalty}
