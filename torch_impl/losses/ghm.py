"""Gradient harmonising: the more elements have a gradient of the same size, the less each counts.

"Gradient Harmonized Single-stage Detector", 2018, arXiv:1811.05181. Source: mmdet ``losses/ghm_loss.py`` (Apache-2.0).

Mirror notes:
- The cross-entropy is written out in both panels: the exporters replace the built-in one by wrong or missing operators.
- Gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch

from torch_impl.losses.dense import binary_cross_entropy

__all__ = ["ghm_classification_loss", "ghm_regression_loss", "harmonized_weights"]

EPS = 1.1920929e-07  # of float32; mmdet adds it to its divisors


def harmonized_weights(size, present, counts, momentum: float):
    """Weights of elements, inverse to how many elements have a gradient of about the same size.

    Args:
        size: sizes of gradients in [0, 1], any shape.
        present: bool, the same shape; the others have weight 0 and are not counted.
        counts: (B,) running counts of as many bins of equal width.
        momentum: share of the running counts that is kept where a bin has elements; 0 for the current counts alone.

    Returns:
        weights: the same shape; their mean over all present elements is about 1 once the counts have settled.
        counts: (B,) the new running counts.
    """
    bins = counts.shape[0]
    index = torch.clamp(torch.floor(size * bins), 0, bins - 1).to(torch.int64)
    found = torch.stack([(present & (index == i)).sum() for i in range(bins)]).to(counts.dtype)
    filled = found > 0
    counts = torch.where(filled, momentum * counts + (1 - momentum) * found, counts)
    total = found.sum().clamp(min=1.0)
    bins = filled.to(counts.dtype).sum().clamp(min=1.0)
    of_bin = torch.where(filled, total / torch.where(filled, counts, 1.0), 0.0) / bins
    return torch.where(present, of_bin[index], 0.0), counts


def ghm_classification_loss(logits, targets, present, counts, momentum: float = 0.75):
    """GHM-C: binary cross-entropy, harmonised (equation 8).

    Args:
        logits, targets: any shape; targets 0 or 1.
        present: bool, the same shape; which elements take part.
        counts, momentum: see :func:`harmonized_weights`.

    Returns:
        The mean over the elements that take part, and the new counts.
    """
    size = (torch.sigmoid(logits) - targets).abs().detach()  # mirror: Gradients are cut
    weights, counts = harmonized_weights(size, present, counts, momentum)
    number = present.sum().clamp(min=1).to(logits.dtype)
    losses = binary_cross_entropy(logits, targets) * weights  # mirror: written out
    return losses.sum() / (number + EPS), counts


def ghm_regression_loss(differences, present, counts, momentum: float = 0.7, mu: float = 0.02):
    """GHM-R: a smooth absolute value, sqrt(d^2 + mu^2) - mu, harmonised (equation 13).

    Args:
        differences: predictions minus targets, any shape.
        present: bool, the same shape; which elements take part.
        counts, momentum: see :func:`harmonized_weights`.
        mu: how smooth the absolute value is near 0.

    Returns:
        The mean over the elements that take part, and the new counts.
    """
    root = torch.sqrt(differences.square() + mu**2)
    weights, counts = harmonized_weights((differences / root).abs().detach(), present, counts, momentum)
    number = present.sum().clamp(min=1).to(differences.dtype)
    return ((root - mu) * weights).sum() / (number + EPS), counts
