"""NAS-FPN: a pyramid whose connections were found by a search, stacked several times.

"NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019, arXiv:1904.07392.
Parameter names: mmdet ``necks/nas_fpn.py``, mmcv ``ops/merge_cells.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps and only needs their names.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size, resize_nearest
from torch_impl.necks.fpn import level_names

__all__ = ["NASFPN", "NASFPNStage", "resize_or_pool"]


def resize_or_pool(x, size: tuple[int, int]):
    """Nearest neighbour where the map grows; max pooling by an integer factor where it shrinks.

    Args:
        x: (N, C, H, W).
        size: (h, w) of the output. A map that shrinks is padded with zeros on both sides to a multiple of it.

    Returns:
        (N, C, h, w).
    """
    height, width = map_size(x)
    if (height, width) == tuple(size):
        return x
    if (height, width) < tuple(size):
        return resize_nearest(x, size)
    window = math.ceil(height / size[0]), math.ceil(width / size[1])
    rows, columns = (n * w - old for n, w, old in zip(size, window, (height, width)))
    if rows or columns:
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.max_pool2d(x, window)


def add_attended(x, other):
    """The second map plus the first, weighted channel by channel by the second's mean.  Twice (N, C, H, W) -> one."""
    return other + torch.sigmoid(other.mean((2, 3), True)) * x  # mirror: NCHW


class MergedConv(nn.Module):
    """ReLU, 3x3 convolution and normalisation of a merged map.

    Args:
        channels: of the map.

    x: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.out_conv = ConvModule(channels, channels, 3, 1, 1, bias=True, norm="batch", activation=None)

    def forward(self, x):
        return self.out_conv(F.relu(x))


class NASFPNStage(nn.Module):
    """The pyramid that was found: nine merges of two maps, named after their levels.

    Args:
        channels: of all levels.

    Inputs: five maps (N, C, H_i, W_i), fine to coarse.
    Returns: five maps of the same shapes.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gp_64_4 = MergedConv(channels)
        self.sum_44_4 = MergedConv(channels)
        self.sum_43_3 = MergedConv(channels)
        self.sum_34_4 = MergedConv(channels)
        self.sum_55_5 = MergedConv(channels)
        self.sum_77_7 = MergedConv(channels)
        self.gp_75_6 = MergedConv(channels)

    def forward(self, levels):
        p3, p4, p5, p6, p7 = levels
        sizes = [map_size(x) for x in levels]
        attended = self.gp_64_4(add_attended(resize_or_pool(p6, sizes[1]), p4))
        middle = self.sum_44_4(attended + p4)
        p3 = self.sum_43_3(resize_or_pool(middle, sizes[0]) + p3)
        p4 = self.sum_34_4(resize_or_pool(p3, sizes[1]) + middle)
        merged = add_attended(resize_or_pool(p4, sizes[2]), resize_or_pool(p3, sizes[2]))
        p5 = self.sum_55_5(p5 + merged)
        merged = add_attended(resize_or_pool(p5, sizes[4]), resize_or_pool(middle, sizes[4]))
        p7 = self.sum_77_7(p7 + merged)
        merged = add_attended(resize_or_pool(p7, sizes[3]), resize_or_pool(p5, sizes[3]))
        p6 = self.gp_75_6(merged)
        return p3, p4, p5, p6, p7


class NASFPN(nn.Module):
    """Lateral 1x1 convolutions, two coarser levels by convolution and pooling, then the stages.

    Args:
        in_channels: channels of the maps C3 to C5, by name.
        out_channels: channels of the levels.
        stack_times: number of stages.

    Inputs: dict of maps (N, C_i, H_i, W_i), those that are not used included; C5 has at least 4 rows and columns.
    Returns: dict of levels (N, out_channels, H_i, W_i), "p3" to "p7".
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, stack_times: int = 7):
        super().__init__()
        self.used = tuple(in_channels)  # mirror: only needs their names
        lateral = dict(norm="batch", activation=None)
        self.lateral_convs = nn.ModuleList(ConvModule(c, out_channels, 1, **lateral) for c in in_channels.values())
        self.extra_downsamples = nn.ModuleList(
            nn.Sequential(ConvModule(out_channels, out_channels, 1, **lateral), nn.MaxPool2d(2)) for _ in range(2)
        )
        self.fpn_stages = nn.ModuleList(NASFPNStage(out_channels) for _ in range(stack_times))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, maps):
        levels = [conv(maps[name]) for conv, name in zip(self.lateral_convs, self.used)]
        for downsample in self.extra_downsamples:
            levels.append(downsample(levels[-1]))
        for stage in self.fpn_stages:
            levels = stage(levels)
        return dict(zip(level_names(self.used, len(levels)), levels))
