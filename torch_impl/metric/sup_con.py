"""Softmax over the pairs of a batch: NT-Xent with labels (N-pairs) and the supervised contrastive loss.

"Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016; "Supervised Contrastive Learning",
2020, arXiv:2004.11362 (variants of pytorch-metric-learning 2.9.0, MIT). What to look at: whether an anchor's other
positives are in the denominator.
"""

from torch import nn

from torch_impl.losses.pairwise import (
    active_mean,
    embeddings_of,
    masked_logsumexp,
    masked_mean,
    pair_masks,
    similarities,
    softplus,
)

__all__ = ["NPairsCriterion", "SupConCriterion"]


class NPairsCriterion(nn.Module):
    """-log(exp(s_p) / (exp(s_p) + sum exp(s_n))) for every pair of one class, s = cosine / temperature; their mean.

    Args:
        temperature: of the cosines.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"n_pairs"``, ``"total"`` (the same).
    """

    def __init__(self, temperature: float = 0.07):
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x) / self.temperature
        positives, negatives = pair_masks(targets["labels"])
        loss = masked_mean(softplus(masked_logsumexp(s, negatives, 1)[:, None] - s), positives)
        return {"n_pairs": loss, "total": loss}


class SupConCriterion(nn.Module):
    """-log softmax over all other rows, averaged over an anchor's positives, then over the anchors with any.

    Args:
        temperature: of the cosines.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"sup_con"``, ``"total"`` (the same).
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x) / self.temperature
        positives, negatives = pair_masks(targets["labels"])
        counted = positives.to(x.dtype)
        surprise = masked_logsumexp(s, positives | negatives, 1)[:, None] - s
        losses = (counted * surprise).sum(1) / counted.sum(1).clamp(min=1)
        loss = active_mean(losses, positives.any(1))
        return {"sup_con": loss, "total": loss}
