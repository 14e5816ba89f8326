"""Lifted structure loss: a pair of one class against all negatives of both its members.

"Deep Metric Learning via Lifted Structured Feature Embedding", 2015, arXiv:1511.06452; the generalised variant of
"In Defense of the Triplet Loss for Person Re-Identification", 2017, arXiv:1703.07737, also takes all positives of an
anchor at once.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.pairwise import distances, embeddings_of, l2_normalize, masked_logsumexp, masked_mean, pair_masks

__all__ = ["LiftedCriterion"]


class LiftedCriterion(nn.Module):
    """[d(pair) + LSE(margin - d of the negatives of both)]+ squared, halved, averaged over the pairs of one class.

    Args:
        margin: distance of negatives.
        generalized: instead [LSE(d of positives) + LSE(margin - d of negatives)]+ averaged over the anchors.
        normalize: bring embeddings to unit length first.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"lifted"``, ``"total"`` (the same); 0 without a pair that has negatives.
    """

    def __init__(self, margin: float = 1.0, generalized: bool = False, normalize: bool = True):
        super().__init__()
        self.margin, self.generalized, self.normalize = margin, generalized, normalize

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        x = l2_normalize(x) if self.normalize else x
        d = distances(x, x)
        positives, negatives = pair_masks(targets["labels"])
        apart = masked_logsumexp(self.margin - d, negatives, 1)
        valid = negatives.any(1)
        if self.generalized:
            losses = F.relu(masked_logsumexp(d, positives, 1) + apart)
            loss = masked_mean(losses, positives.any(1) & valid)
        else:  # log(exp(a) + exp(b)) over both members; members of one class have the same negatives
            losses = F.relu(torch.logaddexp(apart[:, None], apart[None]) + d).square() / 2
            loss = masked_mean(losses, positives & valid[:, None])
        return {"lifted": loss, "total": loss}
