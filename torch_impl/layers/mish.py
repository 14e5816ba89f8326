"""Mish.

Mirror notes:
- Softplus is written out in both panels: PyTorch's is a straight line above 20.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Mish"]


class Mish(nn.Module):
    """x tanh(log(1 + exp(x))), of any shape (arXiv:1908.08681)."""

    def forward(self, x):
        return x * torch.tanh(F.relu(x) + F.softplus(-x.abs()))  # mirror: written out
