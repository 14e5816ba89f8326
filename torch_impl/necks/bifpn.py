"""BiFPN: a pyramid with a top-down and a bottom-up path, whose nodes add maps with weights.

"EfficientDet: Scalable and Efficient Object Detection", 2019, arXiv:1911.09070, section 3.
Parameter names: effdet ``efficientdet.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the input widths of convolutions.
- "same" pooling pads on the right and below at even sizes; TensorFlow has it built in, PyTorch pads with -inf.
- The initial values use fans as the reference counts them: 9 and 9 for a depthwise kernel.
"""

import functools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.normalization import BatchNorm2d
from torch_impl.layers.resize import map_size, resize_nearest

__all__ = ["NORM", "BiFPN", "BiFPNCell", "SeparableConv", "downsample"]

NORM = functools.partial(BatchNorm2d, eps=1e-3, momentum=0.01)
EPS = 1e-4  # keeps the sum of the weights above 0
# level, and the maps that are added to make it: 0 to 4 are the inputs P3 to P7, 5 to 12 the nodes themselves
NODES = (
    (6, (3, 4)),
    (5, (2, 5)),
    (4, (1, 6)),
    (3, (0, 7)),
    (4, (1, 7, 8)),
    (5, (2, 6, 9)),
    (6, (3, 5, 10)),
    (7, (4, 11)),
)


def downsample(x, pad_mode: str):
    """3x3 max pooling at stride 2.

    Args:
        x: (N, C, H, W).
        pad_mode: "same" (the TensorFlow release), "zeros" (the same with padding of 0; mmdet) or "torch" (the same on
            both sides).

    Returns:
        (N, C, ceil(H / 2), ceil(W / 2)).
    """
    if pad_mode == "torch":
        return F.max_pool2d(x, 3, 2, 1)
    rows, columns = ((1 + n % 2) for n in map_size(x))
    sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return F.max_pool2d(
        F.pad(x, sides, value=0.0 if pad_mode == "zeros" else -math.inf), 3, 2
    )  # mirror: "same" pooling


class SeparableConv(nn.Module):
    """Depthwise 3x3 convolution, then a 1x1 convolution, optionally normalised.

    Args:
        in_channels, out_channels: of the map.
        bias: whether the 1x1 convolution has one.
        norm: whether it is normalised.
        prior: bias of the 1x1 convolution before training.
        small: initial values of the heads, normal with variance 1 / fan_in; otherwise Glorot's.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool,
        norm: bool = True,
        prior: float = 0.0,
        small: bool = False,
    ):
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.bn = NORM(out_channels) if norm else None
        if small:
            nn.init.normal_(self.conv_dw.weight, std=1 / 3)  # mirror: fans as the reference
            nn.init.normal_(self.conv_pw.weight, std=in_channels**-0.5)
        else:
            nn.init.uniform_(self.conv_dw.weight, -(3**-0.5), 3**-0.5)
            nn.init.xavier_uniform_(self.conv_pw.weight)
        if bias:
            nn.init.constant_(self.conv_pw.bias, prior)

    def forward(self, x):
        x = self.conv_pw(self.conv_dw(x))
        return x if self.bn is None else self.bn(x)


class Resample(nn.Module):
    """The map of another level: with the pyramid's width, and its size halved or doubled where it differs.

    Args:
        in_channels, out_channels: of the map; where they are equal there is no convolution.
        bias: whether the convolution has one.
        pad_mode: see :func:`downsample`.

    x: (N, C, H, W), size (h, w) -> (N, out_channels, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool, pad_mode: str):
        super().__init__()
        self.pad_mode, self.conv = pad_mode, None
        if in_channels != out_channels:
            self.conv = ConvModule(in_channels, out_channels, 1, bias=bias, norm=NORM, activation=None)
            nn.init.xavier_uniform_(self.conv.conv.weight)

    def forward(self, x, size):
        x = x if self.conv is None else self.conv(x)
        if map_size(x) < size:
            return resize_nearest(x, size)
        return downsample(x, self.pad_mode) if map_size(x) > size else x


class Combine(nn.Module):
    """The weighted sum of some maps.

    Args:
        inputs: index of every map.
        in_channels: width of every map.
        channels: width of the sum.
        bias, pad_mode: see :class:`Resample`.
        weighted: whether the maps have weights; these are clipped at 0 and divided by their sum.

    maps: (N, C_i, H_i, W_i) each, size (h, w) -> (N, channels, h, w).
    """

    def __init__(self, inputs: tuple[int, ...], in_channels: list[int], channels: int, bias, pad_mode, weighted):
        super().__init__()
        self.edge_weights = nn.Parameter(torch.ones(len(inputs))) if weighted else None
        self.resample = nn.ModuleDict(
            {str(i): Resample(width, channels, bias, pad_mode) for i, width in zip(inputs, in_channels)}
        )

    def forward(self, maps, size):
        maps = [resample(x, size) for resample, x in zip(self.resample.values(), maps)]
        if self.edge_weights is None:
            return sum(maps)
        weights = F.relu(self.edge_weights)
        return sum(x * weight for x, weight in zip(maps, weights)) / (weights.sum() + EPS)


class AfterCombine(nn.Module):
    """Swish and a separable convolution.  (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, bias: bool):
        super().__init__()
        self.conv = SeparableConv(channels, channels, bias)

    def forward(self, x):
        return self.conv(F.silu(x))


class Node(nn.Module):
    """A sum of maps and what follows it, see :class:`Combine` and :class:`AfterCombine`."""

    def __init__(self, inputs, in_channels, channels, bias, pad_mode, weighted):
        super().__init__()
        self.combine = Combine(inputs, in_channels, channels, bias, pad_mode, weighted)
        self.after_combine = AfterCombine(channels, bias)

    def forward(self, maps, size):
        return self.after_combine(self.combine(maps, size))


class BiFPNCell(nn.Module):
    """One top-down and one bottom-up path.

    Args:
        in_channels: width of the five levels.
        channels: width of the output levels.
        bias, pad_mode, weighted: see :class:`Combine`.

    Inputs: five maps (N, C_i, H_i, W_i), fine to coarse.
    Returns: five maps (N, channels, H_i, W_i).
    """

    def __init__(self, in_channels: list[int], channels: int, bias: bool, pad_mode: str, weighted: bool):
        super().__init__()
        widths, nodes = [*in_channels, *[channels] * len(NODES)], []
        for _, inputs in NODES:
            nodes.append(Node(inputs, [widths[i] for i in inputs], channels, bias, pad_mode, weighted))
        self.fnode = nn.ModuleList(nodes)

    def forward(self, levels):
        maps, sizes = list(levels), [map_size(x) for x in levels]
        for node, (level, inputs) in zip(self.fnode, NODES):
            maps.append(node([maps[i] for i in inputs], sizes[level - 3]))
        return maps[-5:]


class BiFPN(nn.Module):
    """P6 and P7 from the last map, then the cells.

    Args:
        in_channels: channels of the maps C3 to C5, by name.
        channels: channels of the levels.
        cells: number of cells.
        bias: whether convolutions have one although a normalisation follows (the TensorFlow release).
        pad_mode: see :func:`downsample`.
        weighted: see :class:`Combine`.

    Inputs: dict of maps (N, C_i, H_i, W_i), "c3" to "c5" among them; H and W of C5 multiples of 4.
    Returns: dict of levels (N, channels, H_i, W_i), "p3" to "p7".
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int = 64,
        cells: int = 3,
        bias: bool = True,
        pad_mode: str = "same",
        weighted: bool = True,
    ):
        super().__init__()
        self.used, self.pad_mode = tuple(in_channels), pad_mode
        widths = list(in_channels.values())
        self.resample = nn.ModuleDict({"3": Resample(widths[-1], channels, bias, pad_mode)})
        first, further = [*widths, channels, channels], [channels] * 5
        self.cell = nn.ModuleList(
            BiFPNCell(first if i == 0 else further, channels, bias, pad_mode, weighted) for i in range(cells)
        )

    def forward(self, maps):
        levels = [maps[name] for name in self.used]
        size = tuple(-(-n // 2) for n in map_size(levels[-1]))
        levels.append(self.resample["3"](levels[-1], size))
        levels.append(downsample(levels[-1], self.pad_mode))
        for cell in self.cell:
            levels = cell(levels)
        return {f"p{i + 3}": x for i, x in enumerate(levels)}
