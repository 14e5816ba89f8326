"""CARAFE: upsampling in which every output pixel weights the neighbourhood below it with its own kernel.

"CARAFE: Content-Aware ReAssembly of FEatures", 2019, arXiv:1905.02188. Parameter names: mmcv ``ops/carafe.py`` and
mmdet ``necks/fpn_carafe.py`` (Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the sum: in a file these transposes cancel
  those of the convolutions.
- Neighbours come from ``F.unfold`` in PyTorch, from shifted maps in TensorFlow; in both from one ``Gather`` in ONNX.
- Keras infers the widths of the maps.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .conv_module import ConvModule
from .native import exporting

__all__ = ["CARAFE", "FPNCARAFE", "CARAFEPack", "carafe"]


def carafe(features, masks, kernel_size: int, group_size: int = 1, scale_factor: int = 2):
    """Weighted sums over the neighbourhood of the pixel that lies below each output pixel.

    Args:
        features: (N, C, H, W), zero outside; all but N are static.
        masks: (N, g k k, s H, s W), the weights: for each group rows, then columns of the neighbourhood.
        kernel_size: k, odd, side of the neighbourhood.
        group_size: g, groups of consecutive channels, each with its own mask.
        scale_factor: s.

    Returns:
        (N, C, s H, s W).

    Raises:
        ValueError: if ``masks`` has a wrong number of channels, ``kernel_size`` is even or ``group_size`` does not
            divide C.
    """
    _, channels, height, width = features.shape
    taps, s = kernel_size**2, scale_factor
    _check(channels, masks.shape[1], kernel_size, group_size)
    masks = masks.reshape(-1, group_size, taps, height, s, width, s).permute(0, 1, 3, 5, 4, 6, 2)
    return reassemble(features, masks.reshape(-1, group_size, height * width, s * s, taps))


def _check(channels, mask_channels, kernel_size, group_size):
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd")
    if channels % group_size:
        raise ValueError(f"group_size={group_size} must divide the {channels} channels of the features")
    if mask_channels != group_size * kernel_size**2:
        raise ValueError(
            f"masks must have group_size * kernel_size^2 = {group_size * kernel_size**2} channels, got {mask_channels}"
        )


def reassemble(features, masks):
    """The sums.  features: (N, C, H, W), masks: (N, g, H W, s s, k k) -> (N, C, s H, s W)."""
    _, channels, height, width = features.shape
    _, groups, places, cells, taps = masks.shape
    kernel_size, s = int(taps**0.5), int(cells**0.5)
    # mirror: maps to NCHW for the sum
    around = neighbours(features, kernel_size).reshape(-1, groups, channels // groups, taps, places)
    sums = torch.matmul(masks, around.permute(0, 1, 4, 3, 2))  # (N, g, H W, s s, C / g)
    sums = sums.reshape(-1, groups, height, width, s, s, channels // groups).permute(0, 1, 6, 2, 4, 3, 5)
    return sums.reshape(-1, channels, height * s, width * s)


def neighbours(x, kernel_size: int):
    """The pixels around every pixel, zeros outside.  (N, C, H, W) -> (N, C k k, H W) or (N, C, k k H W)."""
    radius = kernel_size // 2
    if not exporting():
        return F.unfold(x, kernel_size, padding=radius)  # mirror: Neighbours come
    _, channels, height, width = x.shape
    index = torch.from_numpy(neighbour_index(height, width, kernel_size))
    x = F.pad(x, (radius, radius, radius, radius)).reshape(-1, channels, (height + 2 * radius) * (width + 2 * radius))
    return x.index_select(2, index.flatten())


def neighbour_index(height: int, width: int, kernel_size: int) -> np.ndarray:
    """Where the neighbours are in the flat map with its margin of zeros: (k k, H W)."""
    rows, columns = np.arange(height) * (width + kernel_size - 1), np.arange(width)
    taps = (np.arange(kernel_size)[:, None] * (width + kernel_size - 1) + np.arange(kernel_size)).ravel()
    return taps[:, None] + (rows[:, None] + columns).ravel()


class CARAFE(nn.Module):
    """:func:`carafe` as a layer.

    Args:
        kernel_size, group_size, scale_factor: see :func:`carafe`.

    Inputs: features and masks.  Returns: the larger features.
    """

    def __init__(self, kernel_size: int, group_size: int = 1, scale_factor: int = 2):
        super().__init__()
        self.kernel_size, self.group_size, self.scale_factor = kernel_size, group_size, scale_factor

    def forward(self, features, masks):
        return carafe(features, masks, self.kernel_size, self.group_size, self.scale_factor)


class CARAFEPack(nn.Module):
    """Upsampling by CARAFE that computes its own masks, by two convolutions and a softmax over the neighbourhood.

    Args:
        channels: width C of the map.
        scale_factor: s.
        up_kernel: side k of the neighbourhood, odd.
        up_group: groups of channels, each with its own mask.
        encoder_kernel, encoder_dilation: of the second convolution.
        compressed_channels: width between the convolutions.

    x: (N, C, H, W) -> (N, C, s H, s W).
    """

    keeps_initial_values = True

    def __init__(
        self,
        channels: int,
        scale_factor: int,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
    ):
        super().__init__()
        _check(channels, up_group * up_kernel**2, up_kernel, up_group)
        self.scale_factor, self.up_kernel, self.up_group = scale_factor, up_kernel, up_group
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(  # mirror: infers the widths
            compressed_channels,
            up_kernel**2 * up_group * scale_factor**2,
            encoder_kernel,
            padding=(encoder_kernel - 1) * encoder_dilation // 2,
            dilation=encoder_dilation,
        )
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        _, _, height, width = x.shape
        masks = self.content_encoder(self.channel_compressor(x))
        # channel (tap, cell): here a pixel keeps what a pixel shuffle would spread over the cells
        masks = masks.reshape(-1, self.up_group, self.up_kernel**2, self.scale_factor**2, height * width)
        return reassemble(x, masks.permute(0, 1, 4, 3, 2).softmax(-1))


class FPNCARAFE(nn.Module):
    """Feature pyramid whose top-down path upsamples by CARAFE, from the extra levels too.

    Args:
        in_channels: channels of every map, fine to coarse; Keras only needs how many there are.
        out_channels: channels of the levels.
        num_outs: number of levels.

    Inputs: maps (N, C_i, H_i, W_i), fine to coarse, each half as large as the one before, rounded up.
    Returns: list of ``num_outs`` maps (N, out_channels, H_i, W_i), fine to coarse.
    """

    keeps_initial_values = True

    def __init__(self, in_channels: tuple[int, ...], out_channels: int = 256, num_outs: int = 5):
        super().__init__()
        extra = num_outs - len(in_channels)
        laterals = [ConvModule(c, out_channels, 1, activation=None) for c in in_channels]
        for channels in (in_channels[-1], *(out_channels,) * (extra - 1))[:extra]:
            laterals.append(ConvModule(channels, out_channels, 3, 2, 1, activation=None))
        self.lateral_convs = nn.ModuleList(laterals)
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, 1, 1, activation=None) for _ in laterals
        )
        self.upsample_modules = nn.ModuleList(CARAFEPack(out_channels, 2) for _ in laterals[1:])
        for module in (*self.lateral_convs, *self.fpn_convs):
            nn.init.xavier_uniform_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)

    def forward(self, *maps):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(maps), len(self.lateral_convs)):
            laterals.append(self.lateral_convs[i](maps[-1] if i == len(maps) else laterals[-1]))
        for i in range(len(laterals) - 1, 0, -1):
            height, width = laterals[i - 1].shape[2:]
            laterals[i - 1] = laterals[i - 1] + self.upsample_modules[i - 1](laterals[i])[:, :, :height, :width]
        return [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
