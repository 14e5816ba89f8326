"""Stochastic depth.

Mirror notes:
- The samples that are kept come from the framework's own generator unless they are given.
"""

import torch
from torch import nn

__all__ = ["StochasticDepth"]


class StochasticDepth(nn.Module):
    """Drop the branch of whole samples in training, and scale up the others (arXiv:1603.09382).

    Args:
        rate: probability that a sample is dropped, in [0, 1).

    Inputs: x (N, ...); ``keep`` (N,), 1 for the samples that are kept and 0 for the others, drawn if it is None.
    Returns: the shape of x; x itself in evaluation mode.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x, keep=None):
        if keep is None:
            if not self.training or self.rate == 0:
                return x
            keep = torch.rand(x.shape[0], device=x.device) >= self.rate  # mirror: samples that are kept
        shape = (-1, *(1,) * (x.ndim - 1))
        return x * (keep.to(x.dtype) / (1 - self.rate)).reshape(shape)
