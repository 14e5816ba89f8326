"""Layers whose weights are scaled when they are used, so that an optimiser moves all of them equally.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", 2017, arXiv:1710.10196, sections 3 and 4.

Mirror notes:
- PyTorch keeps the stored weight and scales it in ``forward``; Keras' own convolution receives the scaled kernel.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["EqualizedConv2d", "EqualizedLinear", "minibatch_deviation", "pixel_norm"]


class EqualizedConv2d(nn.Module):
    """Convolution with weights of deviation 1, times gain / sqrt(fan_in) when it is used (section 4.1).

    Args:
        in_channels, out_channels, kernel_size, padding: of the convolution, which has a bias.
        gain: sqrt(2) before a leaky ReLU.
        transposed: the stored weight (in_channels, out_channels, ...) belongs to a transposed convolution, and is used
            mirrored in both axes.

    x: (N, in_channels, H, W) -> (N, out_channels, H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int = 0,
        gain: float = 2**0.5,
        transposed: bool = False,
    ):
        super().__init__()
        self.padding, self.transposed, self.scale = padding, transposed, gain / math.sqrt(in_channels * kernel_size**2)
        shape = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.randn(*shape, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x):
        weight = self.weight * self.scale  # mirror: scales it
        weight = weight.transpose(0, 1).flip(2, 3) if self.transposed else weight
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class EqualizedLinear(nn.Module):
    """Dense layer with such weights.

    Args:
        in_features, out_features: widths.
        gain: see :class:`EqualizedConv2d`.
        lr_mul: slows a layer's training: weights are stored divided by it and used multiplied by it, like the bias.

    x: (N, in_features) -> (N, out_features).
    """

    def __init__(self, in_features: int, out_features: int, gain: float = 2**0.5, lr_mul: float = 1.0):
        super().__init__()
        self.scale, self.lr_mul = gain / math.sqrt(in_features) * lr_mul, lr_mul
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


def pixel_norm(x):
    """Every pixel's vector divided by the root of its mean square (section 4.2).  x: (N, C, ...)."""
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def minibatch_deviation(x, group: int = 4):
    """Append a channel with the deviation within a group of images, one number for all pixels (section 3).

    Args:
        x: (N, C, H, W); image n belongs to group n mod (N / G).
        group: G, images per group; all of them if there are fewer.

    Returns:
        (N, C + 1, H, W)
    """
    index = torch.arange(x.shape[0], device=x.device)
    count = torch.ones_like(index).sum()
    member = index % (count // count.clamp(max=group))
    same = (member[:, None] == member).to(x.dtype)
    share = same / same.sum(1, keepdim=True)  # (N, N): averages over a group
    flat = x.flatten(1)
    deviation = (share @ (flat - share @ flat).square() + 1e-8).sqrt().mean(1)
    return torch.cat((x, deviation[:, None, None, None].expand(-1, 1, *x.shape[2:])), 1)
