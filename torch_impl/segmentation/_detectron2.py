"""A residual network and a pyramid of its maps, under the names of detectron2.

Parameter names: facebookresearch/detectron2 ``modeling/backbone/{resnet,fpn}.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow. Keras infers the widths of the maps.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.normalization import choose_norm
from torch_impl.layers.resize import map_size, resize_nearest

__all__ = ["ConvNorm", "ResNetFPN", "TopBlock"]


class ConvNorm(nn.Conv2d):
    """Convolution without bias, and its normalisation.  x: (N, C, H, W) -> (N, out_channels, h, w)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, norm="frozen"
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = choose_norm(norm)(out_channels)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.norm(super().forward(x))


class BottleneckBlock(nn.Module):
    """1x1 reduction with the stride, 3x3, 1x1 expansion by four, and a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolution.
        stride: of the block.
        norm: see :func:`choose_norm`.

    x: (N, C, H, W) -> (N, 4 * width, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, width: int, stride: int, norm: str):
        super().__init__()
        self.shortcut = None
        if in_channels != 4 * width or stride != 1:
            self.shortcut = ConvNorm(in_channels, 4 * width, 1, stride, norm=norm)
        self.conv1 = ConvNorm(in_channels, width, 1, stride, norm=norm)
        self.conv2 = ConvNorm(width, width, 3, 1, 1, norm)
        self.conv3 = ConvNorm(width, 4 * width, 1, norm=norm)

    def forward(self, x):
        identity = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.relu(self.conv3(x) + identity)


class Stem(nn.Module):
    """A 7x7 convolution and a pool, each of stride 2.  x: (N, 3, H, W) -> (N, width, H / 4, W / 4), rounded up."""

    def __init__(self, width: int, norm: str):
        super().__init__()
        self.conv1 = ConvNorm(3, width, 7, 2, 3, norm)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)


class ResNet(nn.Module):
    """The stages ``res2`` to ``res5``.

    Args:
        layers: blocks of each stage.
        planes: width of each stage.
        norm: see :func:`choose_norm`.

    x: (N, 3, H, W) -> four maps (N, C_i, H_i, W_i), fine to coarse.
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], norm: str):
        super().__init__()
        self.stem, channels = Stem(planes[0], norm), planes[0]
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(BottleneckBlock(channels, width, 2 if i > 0 and j == 0 else 1, norm))
                channels = 4 * width
            setattr(self, f"res{i + 2}", nn.Sequential(*blocks))

    def forward(self, images):
        x, maps = self.stem(images), []
        for i in range(2, 6):
            x = getattr(self, f"res{i}")(x)
            maps.append(x)
        return maps


class TopBlock(nn.Module):
    """P6 and P7 by 3x3 convolutions of stride 2, a ReLU before the second; or P6 alone.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the levels.
        last: index of the coarsest level, 6 or 7.

    x: (N, C, H, W) -> dict of ``"p6"`` and, if it is the last, ``"p7"``.
    """

    def __init__(self, in_channels: int, out_channels: int, last: int = 7):
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1) if last == 7 else None

    def forward(self, x):
        p6 = self.p6(x)
        return {"p6": p6} if self.p7 is None else {"p6": p6, "p7": self.p7(F.relu(p6))}


class ResNetFPN(nn.Module):
    """The network ``bottom_up`` and a pyramid of its maps with up to two more levels.

    Args:
        layers, planes: of the network.
        out_channels: channels of the levels.
        first: index of the finest level, 2 or 3.
        average: whether top-down sums are halved.
        top_of_map: P6 comes from the network's last map, otherwise from P5.
        last: index of the coarsest level, 5, 6 or 7.
        norm: of the network, see :func:`choose_norm`.

    Inputs: (N, 3, H, W) float.
    Returns: dict of levels (N, out_channels, H_i, W_i), ``"p2"`` or ``"p3"`` to the last.
    Raises: ValueError if ``last`` is unknown.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        out_channels: int,
        first: int = 3,
        average: bool = False,
        top_of_map: bool = False,
        last: int = 7,
        norm: str = "frozen",
    ):
        super().__init__()
        if last not in (5, 6, 7):
            raise ValueError(f"last={last!r} must be 5, 6 or 7")
        self.first, self.average, self.top_of_map = first, average, top_of_map
        for i in range(first, 6):
            setattr(self, f"fpn_lateral{i}", nn.Conv2d(4 * planes[i - 2], out_channels, 1))
            setattr(self, f"fpn_output{i}", nn.Conv2d(out_channels, out_channels, 3, 1, 1))
        self.top_block = None
        if last > 5:
            self.top_block = TopBlock(4 * planes[-1] if top_of_map else out_channels, out_channels, last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)
        self.bottom_up = ResNet(layers, planes, norm)

    def forward(self, images):
        maps, levels, x = self.bottom_up(images), {}, None
        for i in range(5, self.first - 1, -1):
            y = getattr(self, f"fpn_lateral{i}")(maps[i - 2])
            if x is not None:
                y = y + resize_nearest(x, map_size(y))
                y = y / 2 if self.average else y
            x = y
            levels[f"p{i}"] = getattr(self, f"fpn_output{i}")(x)
        levels = dict(sorted(levels.items()))
        if self.top_block is not None:
            levels |= self.top_block(maps[-1] if self.top_of_map else levels["p5"])
        return levels
