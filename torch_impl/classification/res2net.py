"""Res2Net: ResNet whose 3x3 convolution is a chain of narrow ones, each of which also sees the result before it.

"Res2Net: A New Multi-scale Backbone Architecture", 2019, arXiv:1904.01169.
Parameter names: timm ``res2net.py`` (Apache-2.0), the same as in the authors' code.

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import ClassificationCriterion, ClassificationPostProcess, ResNet, shortcut

__all__ = [
    "Bottle2neck",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "Res2Net",
    "res2net50_14w_8s",
    "res2net50_26w_4s",
    "res2net50_26w_6s",
    "res2net50_26w_8s",
    "res2net50_48w_2s",
    "res2net50_v1b",
    "res2net101_26w_4s",
    "res2net101_v1b",
    "res2next50",
]


class Bottle2neck(nn.Module):
    """1x1 reduction, ``scale`` chunks of channels with a chain of 3x3 convolutions, 1x1 expansion, and a shortcut.

    The last chunk has no convolution. In a block with a projected shortcut the chunks do not see each other, and the
    last one is averaged over 3x3 pixels.

    Args:
        in_channels, planes: width of the input and nominal width of the block; the output has ``4 * planes``.
        stride, first_dilation: of the 3x3 convolutions.
        dilation: not used; a block has one layer of 3x3 convolutions.
        groups, base_width: a chunk has ``planes * base_width // 64`` channels in each group.
        norm: makes the normalisation of a number of channels.
        avg_down, zero_init_residual: see :class:`torch_impl.classification.resnet.ResNet`.
        stride_in_1x1: only False.
        scale: number of chunks; 1 is a single convolution over all channels.

    x: (N, C, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int = 1,
        groups: int = 1,
        base_width: int = 26,
        norm=nn.BatchNorm2d,
        avg_down: bool = False,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
        scale: int = 4,
    ):
        super().__init__()
        if stride_in_1x1:
            raise ValueError(f"Bottle2neck has stride_in_1x1=False only; stride_in_1x1={stride_in_1x1}")
        self.width, self.scale = planes * base_width // 64 * groups, scale
        out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, self.width * scale, 1, bias=False)
        self.bn1 = norm(self.width * scale)
        convs, bns = [], []
        for _ in range(max(scale - 1, 1)):
            convs.append(
                # mirror: padding is explicit
                nn.Conv2d(self.width, self.width, 3, stride, first_dilation, first_dilation, groups, bias=False)
            )
            bns.append(norm(self.width))
        self.convs, self.bns = nn.ModuleList(convs), nn.ModuleList(bns)
        self.conv3 = nn.Conv2d(self.width * scale, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        if zero_init_residual:
            nn.init.zeros_(self.bn3.weight)
        self.pool = self.downsample = None
        if stride != 1 or in_channels != out_channels:  # mirror: told whether
            self.pool = nn.AvgPool2d(3, stride, 1)
            self.downsample = shortcut(in_channels, out_channels, stride, norm, avg_down)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        chunks = [y[:, i * self.width : (i + 1) * self.width] for i in range(self.scale)]
        results = []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            chunk = chunks[i] if i == 0 or self.pool is not None else results[-1] + chunks[i]
            results.append(F.relu(bn(conv(chunk)), inplace=True))
        if self.scale > 1:
            results.append(chunks[-1] if self.pool is None else self.pool(chunks[-1]))
        y = self.bn3(self.conv3(torch.cat(results, 1)))  # mirror: NCHW
        return F.relu(y + identity, inplace=True)


class Res2Net(ResNet):
    """Stem, four stages, linear classifier.

    Args:
        layers: blocks of each stage.
        scale: see :class:`Bottle2neck`.
        base_width: see :class:`Bottle2neck`.
        options: of :class:`torch_impl.classification.resnet.ResNet`, with the same inputs and results.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        scale: int = 4,
        base_width: int = 26,
        **options,
    ):
        super().__init__(functools.partial(Bottle2neck, scale=scale), layers, base_width=base_width, **options)


def res2net50_26w_4s(layers=(3, 4, 6, 3), base_width=26, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_48w_2s(layers=(3, 4, 6, 3), base_width=48, scale=2, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_14w_8s(layers=(3, 4, 6, 3), base_width=14, scale=8, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_26w_6s(layers=(3, 4, 6, 3), base_width=26, scale=6, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_26w_8s(layers=(3, 4, 6, 3), base_width=26, scale=8, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net101_26w_4s(layers=(3, 4, 23, 3), base_width=26, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, base_width=base_width, scale=scale, **options)


def res2net50_v1b(deep_stem=(32, 32, 64), avg_down=True, **options) -> Res2Net:
    return res2net50_26w_4s(deep_stem=deep_stem, avg_down=avg_down, **options)


def res2net101_v1b(deep_stem=(32, 32, 64), avg_down=True, **options) -> Res2Net:
    return res2net101_26w_4s(deep_stem=deep_stem, avg_down=avg_down, **options)


def res2next50(layers=(3, 4, 6, 3), groups=8, base_width=4, scale=4, **options) -> Res2Net:
    return Res2Net(layers=layers, groups=groups, base_width=base_width, scale=scale, **options)
