"""Upsampling of deep layer aggregation: maps are joined in pairs, after deformable convolutions, until the finest
contains all.

"Objects as Points", 2019, arXiv:1904.07850, appendix; "Deep Layer Aggregation", 2017, arXiv:1707.06484.
Parameter names: xingyizhou/CenterNet ``networks/pose_dla_dcn.py``, ``networks/DCNv2`` (MIT).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- PyTorch fills the kernels of upsampling; Keras has an initialiser for them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.deform_conv import deform_conv2d

__all__ = ["DCNv2", "DLAUp", "IDAUp", "UpSampling", "bilinear_kernel"]


def bilinear_kernel(size: int) -> np.ndarray:
    """The kernel of bilinear interpolation by a transposed convolution of stride size / 2.  (size, size) float64."""
    half = -(-size // 2)
    centre = (2 * half - 1 - half % 2) / (2 * half)
    line = 1 - np.abs(np.arange(size) / half - centre)
    return line[:, None] * line


class DCNv2(nn.Module):
    """Deformable convolution v2, 3x3, with the first implementation's name for its offsets and masks.

    Args:
        in_channels, out_channels: widths.

    Inputs: (N, in_channels, H, W).  Returns: (N, out_channels, H, W).
    """

    keeps_initial_values = True

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        bound = (in_channels * 9) ** -0.5
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x):
        found = self.conv_offset_mask(x)
        mask = torch.sigmoid(found[:, 18:])
        return deform_conv2d(x, found[:, :18], self.weight, self.bias, padding=1, mask=mask)


class DeformBlock(nn.Module):
    """Deformable convolution, batch normalisation, ReLU.  (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.actf = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU())
        self.conv = DCNv2(in_channels, out_channels)

    def forward(self, x):
        return self.actf(self.conv(x))


class UpSampling(nn.Module):
    """A learned depthwise upsampling, initially bilinear.

    Args:
        channels: C.
        factor: even.

    Inputs: (N, C, H, W).  Returns: (N, C, factor H, factor W).
    """

    def __init__(self, channels: int, factor: int):
        super().__init__()
        self.factor = factor
        kernel = torch.from_numpy(bilinear_kernel(2 * factor)).to(torch.get_default_dtype())
        self.weight = nn.Parameter(kernel.repeat(channels, 1, 1, 1))  # mirror: fills the kernels

    def forward(self, x):
        return F.conv_transpose2d(x, self.weight, None, self.factor, self.factor // 2, groups=x.shape[1])


class IDAUp(nn.Module):
    """Bring maps to the size and width of the first, one after the other, adding each to the one before it.

    Args:
        in_channels: of the maps.
        out_channels: of the results.
        factors: by which each map is smaller than the first, whose factor is 1.

    Inputs: list of maps (N, C, H, W).
    Returns: list of equal length, all of the first map's size; the first is returned unchanged.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int, factors: tuple[int, ...]):
        super().__init__()
        for i in range(1, len(in_channels)):
            setattr(self, f"proj_{i}", DeformBlock(in_channels[i], out_channels))
            setattr(self, f"up_{i}", UpSampling(out_channels, factors[i]))
            setattr(self, f"node_{i}", DeformBlock(out_channels, out_channels))

    def forward(self, maps):
        found = [maps[0]]
        for i, x in enumerate(maps[1:], start=1):
            x = getattr(self, f"up_{i}")(getattr(self, f"proj_{i}")(x))
            found.append(getattr(self, f"node_{i}")(x + found[-1]))
        return found


class DLAUp(nn.Module):
    """Join every map except the last with all coarser ones, from the coarsest pair to the finest.

    Args:
        channels: of the maps, each half the size of the one before it.

    Inputs: list of maps (N, C, H, W).
    Returns: list of maps of the same sizes and widths, each except the last joined with all coarser ones.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.count = len(channels) - 1
        for i in range(self.count):
            # the maps that a step joins have the width and the size of its second map already
            first = self.count - 1 - i
            widths = (channels[first], *[channels[first + 1]] * (i + 1))
            setattr(self, f"ida_{i}", IDAUp(widths, channels[first], (1, *[2] * (i + 1))))

    def forward(self, maps):
        maps, found = list(maps), [maps[-1]]
        for i in range(self.count):
            first = self.count - 1 - i
            maps[first:] = getattr(self, f"ida_{i}")(maps[first:])
            found.insert(0, maps[-1])
        return found
