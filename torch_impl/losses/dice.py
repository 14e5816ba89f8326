"""Dice loss with squares in the denominator ("V-Net", 2016, arXiv:1606.04797).

Mirror notes:
- The same formula in both panels.
"""

__all__ = ["squared_dice"]


def squared_dice(probabilities, targets, eps: float = 1e-3):
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 2 eps) over the last axis.  (..., P), the same -> (...)."""
    shared = (probabilities * targets).sum(-1)
    return 1 - 2 * shared / (probabilities.square().sum(-1) + targets.square().sum(-1) + 2 * eps)
