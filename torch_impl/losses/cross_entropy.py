"""Cross-entropy of class logits: label smoothing, class weights, ignored rows, auxiliary heads.

Mirror notes:
- Written from ``log_softmax`` in both panels: the exporter drops the label smoothing of ``F.cross_entropy``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.top_k import top_k

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "cross_entropy", "sparse_cross_entropy"]


def cross_entropy(logits, labels, weight=None, label_smoothing: float = 0.0, ignore_index: int = -100):
    """Mean cross-entropy over the rows that count.

    Args:
        logits: (..., K) float.
        labels: (...) int, 0-based class indices; ``ignore_index`` marks rows that do not count.
        weight: (K,) float, weight of each class; rows are averaged by the weight of their label.
        label_smoothing: share of the target that is spread over all K classes, in [0, 1).
        ignore_index: label of the rows that are ignored.

    Returns:
        Scalar; 0 if no row counts (``F.cross_entropy`` gives NaN there).

    Source: arXiv:1512.00567, section 7.
    """
    classes = logits.shape[-1]
    log_p = F.log_softmax(logits, dim=-1)  # mirror: Written from log_softmax
    valid = labels != ignore_index
    target = F.one_hot(torch.where(valid, labels, 0).long(), classes).to(logits.dtype)
    counted = valid.to(logits.dtype)
    if weight is None:
        weight = torch.ones(classes, dtype=logits.dtype, device=logits.device)
    smoothed = (1 - label_smoothing) * target + label_smoothing / classes
    losses = -(smoothed * weight * log_p).sum(-1) * counted
    total = ((target * weight).sum(-1) * counted).sum()
    return losses.sum() / total.clamp(min=1e-12)


def sparse_cross_entropy(logits, labels):
    """Mean cross-entropy over the rows that count; gathers the label's logit, which saves a vector per row.

    Args:
        logits: (..., K) float.
        labels: (...) int, 0-based class indices; -100 marks rows that do not count.

    Returns:
        Scalar; 0 if no row counts.
    """
    log_p = F.log_softmax(logits, dim=-1)
    valid = labels != -100
    picked = log_p.gather(-1, torch.where(valid, labels, 0)[..., None])[..., 0]
    counted = valid.to(logits.dtype)
    return -(picked * counted).sum() / counted.sum().clamp(min=1)


class ClassificationCriterion(nn.Module):
    """Cross-entropy of the logits, plus that of auxiliary heads by weight.

    Args:
        label_smoothing: see :func:`cross_entropy`.
        weight: weights of the classes, or None.
        auxiliary: weight of each auxiliary output by its key.

    Inputs: ``outputs`` the logits (N, K), or a dict with ``"logits"`` and the auxiliary logits; ``targets["labels"]``
        (N,) int, -100 is ignored.
    Returns: dict of scalars: ``"cross_entropy"``, one per auxiliary key, ``"total"``.
    Raises: ValueError if the model returns no output under an auxiliary key.
    """

    def __init__(self, label_smoothing: float = 0.0, weight=None, auxiliary=None):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.weight = None if weight is None else tuple(weight)
        self.auxiliary = dict(auxiliary or {})

    def forward(self, outputs, targets):
        outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
        missing = [key for key in self.auxiliary if key not in outputs]
        if missing:
            hint = "build it with its auxiliary heads, or pass auxiliary={}"
            raise ValueError(f"auxiliary={self.auxiliary}: the model returns no {', '.join(missing)}; {hint}")
        logits = outputs["logits"]
        weight = None if self.weight is None else torch.tensor(self.weight, dtype=logits.dtype, device=logits.device)

        def loss(logits):
            return cross_entropy(logits, targets["labels"], weight, self.label_smoothing)

        losses = {"cross_entropy": loss(logits)}
        total = losses["cross_entropy"]
        for key, share in self.auxiliary.items():
            losses[key] = loss(outputs[key])
            total = total + share * losses[key]
        return {**losses, "total": total}


class ClassificationPostProcess(nn.Module):
    """The most probable classes and their probabilities.

    Args:
        k: how many.

    Inputs: the logits (N, K), or a dict with ``"logits"``.
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64; ties: lower index first.
    """

    def __init__(self, k: int = 5):
        super().__init__()
        self.k = k

    def forward(self, outputs):
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        scores, classes = top_k(F.softmax(logits, dim=-1), self.k)
        return {"scores": scores, "classes": classes.long()}
