"""Circle loss: every similarity has its own weight, which grows with the distance from its optimum.

"Circle Loss: A Unified Perspective of Pair Similarity Optimization", 2020, arXiv:2002.10857. Two variants: on the pairs
of a batch, and on classes (a softmax). What to look at: the weights carry no gradient; and one loss for all pairs of
the batch (the first implementation, TinyZeaMays/CircleLoss) differs from the mean over anchors (fast-reid,
Apache-2.0; pytorch-metric-learning, MIT).

Mirror notes:
- Constant weights: ``detach`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.margin import classify, encode
from torch_impl.losses.pairwise import (
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
    together = -gamma * F.relu(1 + margin - s).detach() * (s - 1 + margin)  # mirror: Constant weights
    apart = gamma * F.relu(s + margin).detach() * (s - margin)
    return together, apart


class CircleCriterion(nn.Module):
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

    def __init__(self, margin: float = 0.25, gamma: float = 256.0, reduction: str = "anchor"):
        super().__init__()
        if reduction not in ("anchor", "batch"):
            raise ValueError(f"reduction={reduction!r} must be 'anchor' or 'batch'")
        self.margin, self.gamma, self.reduction = margin, gamma, reduction

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        together, apart = circle_logits(similarities(x, x), self.margin, self.gamma)
        positives, negatives = pair_masks(targets["labels"])
        if self.reduction == "batch":
            row = torch.arange(x.shape[0], device=x.device)
            once = row[:, None] < row[None]
            positives, negatives = ((mask & once).reshape(1, -1) for mask in (positives, negatives))
            together, apart = together.reshape(1, -1), apart.reshape(1, -1)
        losses = softplus(masked_logsumexp(together, positives, 1) + masked_logsumexp(apart, negatives, 1))
        loss = active_mean(losses, positives.any(1) & negatives.any(1))
        return {"circle": loss, "total": loss}


class CircleSoftmaxCriterion(nn.Module):
    """Cross-entropy of the circle's logits of classes.

    Args:
        num_classes, embedding_size: K and D.
        scale: gamma of :func:`circle_logits`.
        margin: see there.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int, -1 does
        not count.
    Returns: dict of scalars: ``"circle"``, ``"total"`` (the same).
    """

    def __init__(self, num_classes: int, embedding_size: int, scale: float = 64.0, margin: float = 0.35):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, 0.0, 0.01)

    def logits(self, cosines, labels):
        """Logits (N, K) of cosines (N, K) and labels (N,)."""
        together, apart = circle_logits(cosines, self.margin, self.scale)
        return apart - encode(labels, cosines.shape[1], cosines.dtype) * (together + apart)

    def forward(self, outputs, targets):
        cosines = similarities(embeddings_of(outputs), self.weight)
        loss = classify(self.logits(cosines, targets["labels"]), targets["labels"])
        return {"circle": loss, "total": loss}
