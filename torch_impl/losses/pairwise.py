"""Distances, similarities and masks between embeddings, the parts of losses on pairs and triplets.

Rows without a partner are common (a class that occurs once in the batch), so every reduction here takes a mask and
gives finite values and gradients for an empty one.

Mirror notes:
- PyTorch bounds the norm of a vector from below, TensorFlow its square, so the bound there is squared.
- Below a bound there is no gradient: ``clamp`` has this rule, for ``tf.maximum`` the comparison has to be written out.
"""

import torch
import torch.nn.functional as F

from torch_impl.layers.top_k import argmax
from torch_impl.losses.ctc import logsumexp

__all__ = [
    "active_mean",
    "distances",
    "embeddings_of",
    "hardest",
    "l2_normalize",
    "lowest",
    "masked_logsumexp",
    "masked_mean",
    "norms",
    "pair_masks",
    "similarities",
    "softplus",
    "squared_distances",
    "violations",
]

EPS = 1e-12  # smaller squared distances count as 0, where the root has no gradient


def embeddings_of(outputs):
    """The embeddings (N, D) among a model's outputs: the tensor itself, or the dict's ``"embeddings"``."""
    return outputs["embeddings"] if isinstance(outputs, dict) else outputs


def lowest(x) -> float:
    """A number below all values of x, two of which can be added: finite, so that empty rows stay finite."""
    return torch.finfo(x.dtype).min / 4


def l2_normalize(x):
    """Rows x / max(|x|, 1e-12), (..., D)."""
    return F.normalize(x, dim=-1, eps=EPS)  # mirror: PyTorch bounds the norm


def norms(x):
    """Lengths of rows, (..., D) -> (..., 1); a row of zeros has no gradient."""
    return x.square().sum(-1, keepdim=True).clamp(min=EPS**2).sqrt()


def squared_distances(x, y):
    """Squared Euclidean distances of all pairs of rows, (N, D) and (M, D) -> (N, M), at least 1e-12."""
    found = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * (x @ y.T)
    return found.clamp(min=EPS)  # mirror: no gradient


def distances(x, y):
    """Euclidean distances of all pairs of rows, (N, D) and (M, D) -> (N, M), at least 1e-6."""
    return squared_distances(x, y).sqrt()


def similarities(x, y):
    """Cosines of all pairs of rows, (N, D) and (M, D) -> (N, M)."""
    return l2_normalize(x) @ l2_normalize(y).T


def pair_masks(labels, others=None, own=None):
    """Which pairs of rows share a class, and which do not.

    Args:
        labels: (N,) int.
        others: (M,) int, labels of the rows to pair with; the batch itself by default.
        own: (N,) int, where each row is among the others, -1 if it is not; a row is never its own partner.

    Returns:
        positives, negatives: (N, M) bool.
    """
    if others is None:
        others, own = labels, torch.arange(labels.shape[0], device=labels.device)
    same = labels[:, None] == others[None]
    if own is None:
        return same, ~same
    return same & (own[:, None] != torch.arange(others.shape[0], device=labels.device)[None]), ~same


def softplus(x):
    """log(1 + exp(x)) of any shape, without ``F.softplus``' straight line above 20."""
    return F.relu(x) + F.softplus(-x.abs())


def masked_logsumexp(x, mask, axis: int):
    """log(sum(exp(.))) of the entries of a mask along an axis; :func:`lowest` where there are none."""
    return logsumexp(torch.where(mask, x, lowest(x)), axis)


def hardest(x, mask, largest: bool):
    """The largest (or smallest) entry of every row (N, M) among those of a mask; of equal ones the first.

    Returns:
        values: (N,) float; arbitrary in a row without entries.
        indices: (N,) int64.
    """
    index = argmax(torch.where(mask, x if largest else -x, lowest(x)), 1)
    return x.gather(1, index[:, None])[:, 0], index


def masked_mean(losses, mask):
    """Mean of the entries of a mask, of any shape; 0 if there are none."""
    counted = mask.to(losses.dtype)
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def active_mean(losses, mask):
    """Mean of those entries of a mask that are above 0, of any shape; 0 if there are none."""
    return masked_mean(losses, mask & (losses > 0))


def violations(d, positives, negatives, swap: bool = False):
    """Distance to the positive minus distance to the negative, for every anchor, positive and negative.

    Args:
        d: (N, M) distances.
        positives, negatives: (N, M) masks.
        swap: take the negative's distance to the positive where that is smaller (needs N = M).

    Returns:
        values: (N, M, M), by anchor, positive, negative.
        valid: (N, M, M), which three are a triplet.
    """
    apart = d[:, None, :]
    if swap:
        apart = torch.where(d[None] < apart, d[None], apart)
    return d[:, :, None] - apart, positives[:, :, None] & negatives[:, None, :]
