"""Contrastive loss: pairs of one class are pulled together, pairs of two classes pushed apart up to a margin.

"Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006. What to look at: what is averaged. Variants as
in pytorch-metric-learning 2.9.0 (MIT) and, by "anchor", in the code of cross-batch memory (arXiv:1912.06798).
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.pairwise import active_mean, distances, embeddings_of, l2_normalize, pair_masks, similarities

__all__ = ["ContrastiveCriterion", "contrastive_cosine", "contrastive_pairs"]

SAME = 1 - 1e-5  # a larger cosine means an embedding's own copy in the memory


def contrastive_pairs(d, positives, negatives, together: float = 0.0, apart: float = 1.0):
    """[d - together]+ over pairs of one class plus [apart - d]+ over pairs of two, each averaged over those above 0.

    Args:
        d: (N, M) distances, or negated cosines (with negated bounds).
        positives, negatives: (N, M) masks.
    """
    return active_mean(F.relu(d - together), positives) + active_mean(F.relu(apart - d), negatives)


def contrastive_cosine(s, positives, negatives, margin: float = 0.5):
    """1 - s over pairs of one class plus s over pairs of two that are above the margin, summed, by anchor.

    Args:
        s: (N, M) cosines.
        positives, negatives: (N, M) masks.
    """
    losses = torch.where(positives & (s < SAME), 1 - s, 0) + torch.where(negatives & (s > margin), s, 0)
    return losses.sum() / s.shape[0]


class ContrastiveCriterion(nn.Module):
    """See :func:`contrastive_pairs` and :func:`contrastive_cosine`.

    Args:
        measure: "euclidean" distances of unit vectors, "cosine", or "anchor" (:func:`contrastive_cosine`).
        positive_margin: distance at which pairs of one class are close enough; a cosine with "cosine".
        negative_margin: distance at which pairs of two classes are far enough; a cosine with "cosine" and "anchor".

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"contrastive"``, ``"total"`` (the same).
    Raises: ValueError if ``measure`` is unknown.
    """

    def __init__(self, measure: str = "euclidean", positive_margin: float = 0.0, negative_margin: float = 1.0):
        super().__init__()
        if measure not in ("euclidean", "cosine", "anchor"):
            raise ValueError(f"measure={measure!r} must be 'euclidean', 'cosine' or 'anchor'")
        self.measure, self.positive_margin, self.negative_margin = measure, positive_margin, negative_margin

    def between(self, x, y, positives, negatives):
        """The loss of embeddings (N, D) and others (M, D) with the masks of their pairs (N, M)."""
        if self.measure == "euclidean":
            d = distances(l2_normalize(x), l2_normalize(y))
            return contrastive_pairs(d, positives, negatives, self.positive_margin, self.negative_margin)
        s = similarities(x, y)
        if self.measure == "anchor":
            return contrastive_cosine(s, positives, negatives, self.negative_margin)
        return contrastive_pairs(-s, positives, negatives, -self.positive_margin, -self.negative_margin)

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        loss = self.between(x, x, *pair_masks(targets["labels"]))
        return {"contrastive": loss, "total": loss}
