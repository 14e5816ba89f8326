"""CosFace and AM-Softmax: a margin is subtracted from the cosine of the right class; also the plain cosine softmax.

"CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018, arXiv:1801.09414; "Additive Margin Softmax for Face
Verification", 2018, arXiv:1801.05599; "NormFace" / "Classification is a Strong Baseline for Deep Metric Learning"
(no margin), 2018, arXiv:1811.12649. The variant on pairs of a batch is that of JDAI-CV/fast-reid (Apache-2.0).
"""

import torch
from torch import nn

from torch_impl.losses.margin import classify, encode
from torch_impl.losses.pairwise import embeddings_of, masked_logsumexp, masked_mean, pair_masks, similarities, softplus

__all__ = ["CosFaceCriterion", "PairwiseCosFaceCriterion", "am_softmax", "cosface", "normalized_softmax"]


class CosFaceCriterion(nn.Module):
    """Cross-entropy of scale * (cos - margin) for the right class and scale * cos for the others.

    Args:
        num_classes, embedding_size: K and D.
        scale: of the cosines.
        margin: see above.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int, -1 does
        not count.
    Returns: dict of scalars: ``"cosface"``, ``"total"`` (the same).
    """

    def __init__(self, num_classes: int, embedding_size: int, scale: float = 64.0, margin: float = 0.35):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, 0.0, 0.01)

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        cosines = similarities(x, self.weight)
        target = encode(targets["labels"], cosines.shape[1], x.dtype)
        loss = classify(self.scale * (cosines - self.margin * target), targets["labels"])
        return {"cosface": loss, "total": loss}


class PairwiseCosFaceCriterion(nn.Module):
    """softplus(LSE(gamma (s_n + margin)) + LSE(-gamma s_p)) over the pairs of every anchor; the mean over anchors.

    Args:
        margin: added to the cosines of two classes.
        gamma: scale.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int.
    Returns: dict of scalars: ``"cosface"``, ``"total"`` (the same); anchors without both kinds of pairs do not count.
    """

    def __init__(self, margin: float = 0.25, gamma: float = 128.0):
        super().__init__()
        self.margin, self.gamma = margin, gamma

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        s = similarities(x, x)
        positives, negatives = pair_masks(targets["labels"])
        apart = masked_logsumexp(self.gamma * (s + self.margin), negatives, 1)
        together = masked_logsumexp(-self.gamma * s, positives, 1)
        loss = masked_mean(softplus(apart + together), positives.any(1) & negatives.any(1))
        return {"cosface": loss, "total": loss}


def cosface(num_classes: int, embedding_size: int = 512, scale: float = 64.0, margin: float = 0.35):
    return CosFaceCriterion(num_classes, embedding_size, scale=scale, margin=margin)


def am_softmax(num_classes: int, embedding_size: int = 512, scale: float = 30.0, margin: float = 0.35):
    return CosFaceCriterion(num_classes, embedding_size, scale=scale, margin=margin)


def normalized_softmax(num_classes: int, embedding_size: int = 512, scale: float = 20.0):
    return CosFaceCriterion(num_classes, embedding_size, scale=scale, margin=0.0)
