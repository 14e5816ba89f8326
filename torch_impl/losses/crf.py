"""Linear-chain conditional random field: likelihood of a sequence of tags, and the most probable one.

"Conditional Random Fields: Probabilistic Models for Segmenting and Labeling Sequence Data", ICML 2001. Parameter names:
kmkurn/pytorch-crf ``torchcrf/__init__.py`` (MIT). The recursions loop over time in Python and are vectorised over texts
and tags; they consist of ordinary operations, so they are differentiable, work in every float type and export.

Mirror notes:
- TensorFlow gathers by rows of indices; PyTorch indexes with one tensor per axis.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.top_k import argmax
from torch_impl.losses.ctc import logsumexp

__all__ = ["BMES", "CRF", "CRFCriterion", "CRFPostProcess", "crf_decode", "crf_nll"]

ILLEGAL = -1e4  # added to the score of what is ruled out
REDUCTIONS = ("none", "sum", "mean", "token_mean")
# what is ruled out for the tags B, M, E, S of Chinese characters: at the start, from row to column, at the end
BMES = (
    (False, True, True, False),
    (
        (True, False, False, True),
        (True, False, False, True),
        (False, True, True, False),
        (False, True, True, False),
    ),
    (True, True, False, False),
)


def crf_nll(emissions, tags, valid, start_transitions, end_transitions, transitions, reduction: str = "none"):
    """Negative log-likelihood of sequences of tags.

    Args:
        emissions: (N, T, K) float, scores of the tags; T is static.
        tags: (N, T) int, 0-based; ignored after the end of a text.
        valid: (N, T), not 0 for the tags that count, which come first; an empty text has no loss.
        start_transitions, end_transitions: (K,), scores of the first and of the last tag.
        transitions: (K, K), score of a tag (column) after another (row).
        reduction: "none", "sum", "mean" over the texts, or "token_mean" over the tags.

    Returns:
        (N,) float, or a scalar.

    Raises:
        ValueError: if ``reduction`` is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    valid = valid != 0
    tags = torch.where(valid, tags, torch.zeros_like(tags))
    counted = valid.to(emissions.dtype)
    emitted = (emissions * F.one_hot(tags, emissions.shape[2]).to(emissions.dtype)).sum(2)
    score = (emitted * counted).sum(1) + start_transitions[tags[:, 0]]
    score = score + (transitions[tags[:, :-1], tags[:, 1:]] * counted[:, 1:]).sum(1)  # mirror: rows of indices
    last = (valid.long().sum(1, keepdim=True) - 1).clamp(min=0)
    score = score + end_transitions[tags.gather(1, last)[:, 0]]
    alpha = start_transitions + emissions[:, 0]  # log of the sum over all prefixes that end in a tag, (N, K)
    for t in range(1, emissions.shape[1]):
        following = logsumexp(alpha[:, :, None] + transitions, 1) + emissions[:, t]
        alpha = torch.where(valid[:, t, None], following, alpha)
    losses = (logsumexp(alpha + end_transitions, 1) - score) * counted[:, 0]
    if reduction == "none":
        return losses
    if reduction == "mean":
        return losses.mean()
    return losses.sum() / counted.sum() if reduction == "token_mean" else losses.sum()


def crf_decode(emissions, valid, start_transitions, end_transitions, transitions):
    """The best sequence of tags of every text (Viterbi); ties go to the lower tags, from the end on.

    Args: those of :func:`crf_nll`.

    Returns:
        tags: (N, T) int64, -1 after the end.
        scores: (N,) float.
    """
    valid = valid != 0
    best = start_transitions + emissions[:, 0]
    stay = torch.arange(emissions.shape[2], device=emissions.device).expand(best.shape)
    steps = []  # predecessor of each tag, (N, K)
    for t in range(1, emissions.shape[1]):
        moves = best[:, :, None] + transitions
        steps.append(torch.where(valid[:, t, None], argmax(moves, 1), stay))
        best = torch.where(valid[:, t, None], moves.amax(1) + emissions[:, t], best)
    best = best + end_transitions
    path = [argmax(best, 1)[:, None]]
    for step in reversed(steps):
        path.append(step.gather(1, path[-1]))
    return torch.where(valid, torch.cat(path[::-1], 1), -1), best.amax(1)


class CRF(nn.Module):
    """Transition scores of tags, added to their emissions.

    Args:
        num_tags: tags K.
        constraints: what is ruled out at the start (K), from tag to tag (K, K) and at the end (K), such as
            :data:`BMES`; or None.

    Inputs: ``emissions`` (N, T, K) float; ``mask`` (N, T) int, 1 = tag, 0 = padding.
    Returns: dict, everything that :class:`CRFCriterion` and :class:`CRFPostProcess` need: ``"emissions"``; the mask as
        ``"valid"`` (N, T) float; ``"start_transitions"`` (K,), ``"end_transitions"`` (K,), ``"transitions"`` (K, K).
    """

    def __init__(self, num_tags: int, constraints=None):
        super().__init__()
        self.start_transitions = nn.Parameter(torch.empty(num_tags))
        self.end_transitions = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        self.constraints = constraints

    def forward(self, emissions, mask):
        start, between, end = self.start_transitions, self.transitions, self.end_transitions
        if self.constraints is not None:
            ruled_out = (torch.tensor(part).to(emissions) * ILLEGAL for part in self.constraints)
            start, between, end = (a + b for a, b in zip((start, between, end), ruled_out, strict=True))
        return {
            "emissions": emissions,
            "valid": mask.to(emissions.dtype),
            "start_transitions": start,
            "end_transitions": end,
            "transitions": between,
        }


class CRFCriterion(nn.Module):
    """Negative log-likelihood of the right tags.

    Args:
        reduction: "sum", "mean" over the texts, or "token_mean" over the tags.

    Inputs: ``outputs`` of :class:`CRF`; ``targets["tags"]`` (N, T) int; ignored after the end of a text.
    Returns: dict of scalars: ``"nll"``, ``"total"`` (the same).
    Raises: ValueError if ``reduction`` is unknown.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        if reduction not in REDUCTIONS[1:]:
            raise ValueError(f"reduction must be one of {REDUCTIONS[1:]}, got {reduction!r}")
        self.reduction = reduction

    def forward(self, outputs, targets):
        loss = crf_nll(**outputs, tags=targets["tags"], reduction=self.reduction)
        return {"nll": loss, "total": loss}


class CRFPostProcess(nn.Module):
    """The best sequence of tags.

    Inputs: ``outputs`` of :class:`CRF`.
    Returns: dict: ``"tags"`` (N, T) int64, -1 after the end; ``"scores"`` (N,) float.
    """

    def forward(self, outputs):
        tags, scores = crf_decode(**outputs)
        return {"tags": tags, "scores": scores}
