"""Activations that differ between the frameworks.

Mirror notes:
- TensorFlow keeps the slope of its leaky ReLU in single precision, PyTorch the sixth of its hard sigmoid's gradient.
- TensorFlow writes the GELU out: its exact variant does not export, its tanh variant has a constant in single
  precision.
"""

import torch.nn.functional as F
from torch.nn import Hardswish, LeakyReLU  # mirror: slope of its leaky ReLU

from .native import exporting

__all__ = ["Hardswish", "LeakyReLU", "gelu", "hardsigmoid"]


def gelu(x, approximate: str = "none"):
    """x times the normal distribution function of x, of any shape (arXiv:1606.08415).

    Args:
        approximate: "none" for the exact function, "tanh" for GPT's approximation.
    """
    return F.gelu(x, approximate=approximate)  # mirror: writes the GELU out


def hardsigmoid(x):
    """relu6(x + 3) / 6, of any shape."""
    return F.hardsigmoid(x) if exporting() else F.relu6(x + 3) / 6  # mirror: sixth of its hard sigmoid
