"""Squeeze and excitation.

Mirror notes:
- The mean over height and width keeps both axes, so both panels apply 1x1 convolutions to it.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Module):
    """Channel attention: every channel is scaled by a gate that sees the means of all channels (arXiv:1709.01507).

    Args:
        channels: width C of the map.
        squeezed: width between the two 1x1 convolutions.
        gate: the last function, ``torch.sigmoid`` or ``hardsigmoid``.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, squeezed: int, gate=torch.sigmoid):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x):
        s = F.adaptive_avg_pool2d(x, 1)  # mirror: keeps both axes
        return x * self.gate(self.fc2(F.relu(self.fc1(s))))
