"""U-Net on volumes whose slices are far apart: maps are halved within the slices, and across them once at the bottom.

The U-Net idea: arXiv:1505.04597, in three dimensions arXiv:1606.06650. This network finds the platelets of a blood clot
in fluorescence microscopy: affinities of neighbouring voxels, a mask, and centres.
Parameter names: ``unet.py`` of the package platelet-unet-watershed 0.0.3 (BSD-3-Clause), which ships its weights.
What to look at: the pools add a border on both sides, so that even maps become odd ones, and the rows too many are cut
off on the way up; each channel is doubled by a kernel of its own.

Mirror notes:
- NCDHW here, NDHWC in TensorFlow; Keras infers the input widths.
- Keras has no transposed convolution with groups: where strides and kernel are equal it is a product with the kernel.
- TensorFlow's pool of volumes computes in float32 alone: the slices are pooled as images, then pairs of slices.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ConvPair", "UNet3D", "unet_platelets"]

WITHIN, ACROSS = (1, 2, 2), (2, 2, 2)  # how a map is halved: slices, rows, columns


class ConvPair(nn.Module):
    """Two 3x3x3 convolutions with normalisation; a ReLU after each, or a sigmoid after the second.

    Args:
        in_channels, out_channels: of the input and the result.
        last: whether a sigmoid ends it.

    x: (N, C, D, H, W) -> (N, out_channels, D, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, last: bool = False):
        super().__init__()
        self.conv0 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.conv1 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.batch0, self.batch1 = nn.BatchNorm3d(out_channels), nn.BatchNorm3d(out_channels)
        self.last = last

    def forward(self, x):
        x = F.relu(self.batch0(self.conv0(x)))
        x = self.batch1(self.conv1(x))
        return torch.sigmoid(x) if self.last else F.relu(x)


def double(channels: int, stride: tuple[int, int, int]) -> nn.ConvTranspose3d:
    """Every voxel becomes a block of the stride's size, by a kernel for each channel."""
    return nn.ConvTranspose3d(channels, channels, stride, stride, groups=channels)  # mirror: with groups


def pool(x, strides: tuple[int, int, int]):
    """Maxima of blocks, with a border around each slice.  (N, C, D, H, W) -> (N, C, D / d, H // 2 + 1, W // 2 + 1)."""
    return F.max_pool3d(x, strides, strides, padding=(0, 1, 1))  # mirror: pool of volumes


class UNet3D(nn.Module):
    """The network of five levels.

    Args:
        width: channels of the first level; doubled from level to level but for the last.
        num_outputs: maps that are made.

    Inputs: (N, 1, D, H, W) float, from 0 to 1; D even, H and W multiples of 16.
    Returns: dict: ``"probabilities"`` (N, num_outputs, D, H, W); the published five are the affinities to the
        neighbours in depth, rows and columns, the mask, and the centres.
    Raises: ValueError for other sizes.
    """

    def __init__(self, width: int = 32, num_outputs: int = 5):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.c0, self.c1 = ConvPair(1, widths[0]), ConvPair(widths[0], widths[1])
        self.c2, self.c3 = ConvPair(widths[1], widths[2]), ConvPair(widths[2], widths[3])
        self.c4 = ConvPair(widths[3], widths[3])
        self.c5_0, self.c6_0 = ConvPair(2 * widths[3], widths[2]), ConvPair(2 * widths[2], widths[1])
        self.c7_0, self.c8_0 = ConvPair(2 * widths[1], widths[0]), ConvPair(2 * widths[0], num_outputs, last=True)
        self.up0, self.up1 = double(widths[3], ACROSS), double(widths[2], WITHIN)
        self.up2, self.up3 = double(widths[1], WITHIN), double(widths[0], WITHIN)

    def forward(self, volumes):
        depth, height, width = volumes.shape[2:]
        if depth % 2 or height % 16 or width % 16:
            raise ValueError(
                f"volumes of {depth} x {height} x {width}: an even depth, and multiples of 16 are expected"
            )
        c0 = self.c0(volumes)
        c1 = self.c1(pool(c0, WITHIN))
        c2 = self.c2(pool(c1, WITHIN))
        c3 = self.c3(pool(c2, WITHIN))
        x = self.up0(self.c4(pool(c3, ACROSS)))
        x = self.up1(self.c5_0(torch.cat((x[..., :-1, :-1], c3), 1)))
        x = self.up2(self.c6_0(torch.cat((x[..., :-1, :-1], c2), 1)))
        x = self.up3(self.c7_0(torch.cat((x[..., :-1, :-1], c1), 1)))
        return {"probabilities": self.c8_0(torch.cat((x[..., 1:-1, 1:-1], c0), 1))}  # mirror: NCDHW here


def unet_platelets(width: int = 32, num_outputs: int = 5) -> UNet3D:
    return UNet3D(width, num_outputs)
