"""Multi-similarity loss: pairs are weighted by their own similarity and by those of the anchor's other pairs.

"Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", 2019, arXiv:1904.06627 (variant of
pytorch-metric-learning 2.9.0, MIT, without mining).
"""

from torch import nn

from torch_impl.losses.pairwise import embeddings_of, masked_logsumexp, pair_masks, similarities, softplus

__all__ = ["MultiSimilarityCriterion"]


class MultiSimilarityCriterion(nn.Module):
    """log(1 + sum exp(alpha (base - s_p))) / alpha + log(1 + sum exp(beta (s_n - base))) / beta, mean over anchors.

    Args:
        alpha, beta: sharpness for pairs of one class and of two.
        base: the cosine that separates near from far.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"multi_similarity"``, ``"total"`` (the same).
    """

    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5):
        super().__init__()
        self.alpha, self.beta, self.base = alpha, beta, base

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x)
        positives, negatives = pair_masks(targets["labels"])
        together = softplus(masked_logsumexp(self.alpha * (self.base - s), positives, 1)) / self.alpha
        apart = softplus(masked_logsumexp(self.beta * (s - self.base), negatives, 1)) / self.beta
        loss = (together + apart).mean()
        return {"multi_similarity": loss, "total": loss}
