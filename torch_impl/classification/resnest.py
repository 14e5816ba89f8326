"""ResNeSt: ResNet-D whose 3x3 convolution has several branches, weighted against each other by channel attention.

"ResNeSt: Split-Attention Networks", 2020, arXiv:2004.08955.
Parameter names: the authors' ``resnest/torch/models`` (Apache-2.0) and timm ``resnest.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import ClassificationCriterion, ClassificationPostProcess, ResNet, shortcut
from torch_impl.layers.pooling import adaptive_avg_pool2d

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ResNeSt",
    "ResNeStBottleneck",
    "SplitAttention",
    "resnest14",
    "resnest26",
    "resnest50",
    "resnest50_fast_1s4x24d",
    "resnest50_fast_4s2x40d",
    "resnest101",
    "resnest200",
    "resnest269",
]


class SplitAttention(nn.Module):
    """3x3 convolution into R maps of C channels, and their sum weighted per channel by a softmax over the R (figure 2).

    Args:
        channels: width C of the input and of the result.
        stride, dilation: of the convolution.
        radix: number R of maps; 1 makes the attention a sigmoid.
        cardinality: number of channel groups within every map.
        norm: makes the normalisation of a number of channels.

    x: (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        radix: int = 2,
        cardinality: int = 1,
        norm=nn.BatchNorm2d,
    ):
        super().__init__()
        self.channels, self.radix, self.cardinality = channels, radix, cardinality
        hidden = max(channels * radix // 4, 32)
        self.conv = nn.Conv2d(  # mirror: padding is explicit
            channels, channels * radix, 3, stride, dilation, dilation, cardinality * radix, bias=False
        )
        self.bn0 = norm(channels * radix)
        self.fc1 = nn.Conv2d(channels, hidden, 1, groups=cardinality)
        self.bn1 = norm(hidden)
        self.fc2 = nn.Conv2d(hidden, channels * radix, 1, groups=cardinality)

    def forward(self, x):
        x = F.relu(self.bn0(self.conv(x)), inplace=True)
        maps = [x[:, i * self.channels : (i + 1) * self.channels] for i in range(self.radix)]
        means = adaptive_avg_pool2d(sum(maps[1:], start=maps[0]), 1)
        logits = self.fc2(F.relu(self.bn1(self.fc1(means)), inplace=True))  # (N, R C, 1, 1)
        if self.radix == 1:
            return x * torch.sigmoid(logits)
        # the second layer has the groups first, in each of them the R maps; the maps have the groups second
        logits = logits.reshape(-1, self.cardinality, self.radix, self.channels // self.cardinality)
        x = x * F.softmax(logits, 2).transpose(1, 2).reshape(-1, self.radix * self.channels, 1, 1)
        maps = [x[:, i * self.channels : (i + 1) * self.channels] for i in range(self.radix)]
        return sum(maps[1:], start=maps[0])


class ResNeStBottleneck(nn.Module):
    """1x1 reduction, :class:`SplitAttention`, 1x1 expansion by four, and a shortcut; an average pool has the stride.

    Args:
        in_channels, planes: width of the input and nominal width of the block; the output has ``4 * planes``.
        stride: of the average pool.
        dilation: not used; a block has one 3x3 convolution.
        first_dilation: of the 3x3 convolution.
        groups, base_width: there are ``groups * (planes * base_width // 64)`` channels between the 1x1 convolutions.
        norm: makes the normalisation of a number of channels.
        avg_down, zero_init_residual: see :class:`torch_impl.classification.resnet.ResNet`.
        stride_in_1x1: only False.
        radix, avd, avd_first: see :class:`ResNeSt`.

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
        base_width: int = 64,
        norm=nn.BatchNorm2d,
        avg_down: bool = True,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
        radix: int = 2,
        avd: bool = True,
        avd_first: bool = False,
    ):
        super().__init__()
        if stride_in_1x1:
            raise ValueError(f"ResNeStBottleneck has stride_in_1x1=False only; stride_in_1x1={stride_in_1x1}")
        width, out_channels = planes * base_width // 64 * groups, planes * self.expansion
        self.avd_first = avd_first
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = SplitAttention(width, 1 if avd else stride, first_dilation, radix, groups, norm)
        self.pool = nn.AvgPool2d(3, stride, 1) if avd and stride > 1 else None
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = norm(out_channels)
        if zero_init_residual:
            nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:  # mirror: told whether
            self.downsample = shortcut(in_channels, out_channels, stride, norm, avg_down)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if self.pool is not None and self.avd_first:
            y = self.pool(y)
        y = self.conv2(y)
        if self.pool is not None and not self.avd_first:
            y = self.pool(y)
        y = self.bn3(self.conv3(y))
        return F.relu(y + identity, inplace=True)


class ResNeSt(ResNet):
    """Stem, four stages, linear classifier.

    Args:
        layers: blocks of each stage.
        deep_stem: widths of the three 3x3 convolutions.
        avg_down: average pool before the projection of the shortcut.
        radix: maps of each :class:`SplitAttention`.
        avd: a 3x3 average pool takes the stride of the first block in stages 2 to 4; where dilation replaces the
            stride, the pool stays, without a stride.
        avd_first: the pool comes before the split attention.
        dropout: rate before the classifier.
        options: of :class:`torch_impl.classification.resnet.ResNet`, with the same inputs and results; ``groups`` is
            the cardinality.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        deep_stem: tuple[int, int, int] = (32, 32, 64),
        avg_down: bool = True,
        radix: int = 2,
        avd: bool = True,
        avd_first: bool = False,
        dropout: float = 0.0,
        **options,
    ):
        block = functools.partial(ResNeStBottleneck, radix=radix, avd=avd, avd_first=avd_first)
        super().__init__(block, layers, deep_stem=deep_stem, avg_down=avg_down, **options)
        for stage in (self.layer2, self.layer3, self.layer4):
            if avd and stage[0].pool is None:
                stage[0].pool = nn.AvgPool2d(3, 1, 1)
        self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows

    def forward(self, images):
        maps = self.forward_features(images)
        return maps if self.features_only else self.fc(self.dropout(maps["c5"].mean((2, 3))))  # mirror: NCHW


def resnest14(layers=(1, 1, 1, 1), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest26(layers=(2, 2, 2, 2), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest50(layers=(3, 4, 6, 3), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest101(layers=(3, 4, 23, 3), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest200(layers=(3, 24, 36, 3), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest269(layers=(3, 30, 48, 8), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest50_fast_1s4x24d(radix=1, groups=4, base_width=24, avd_first=True, **options) -> ResNeSt:
    return resnest50(radix=radix, groups=groups, base_width=base_width, avd_first=avd_first, **options)


def resnest50_fast_4s2x40d(radix=4, groups=2, base_width=40, avd_first=True, **options) -> ResNeSt:
    return resnest50(radix=radix, groups=groups, base_width=base_width, avd_first=avd_first, **options)
