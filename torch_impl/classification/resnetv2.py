"""ResNet v2: normalisation and activation come before each convolution, and nothing comes after the addition.

"Identity Mappings in Deep Residual Networks", 2016, arXiv:1603.05027; "Big Transfer (BiT): General Visual
Representation Learning", 2019, arXiv:1912.11370.
Parameter names: timm ``models/resnetv2.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
"""

import functools

import torch.nn.functional as F
from torch import nn

from torch_impl.classification.mobilenet_v2 import make_divisible
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.convolution import StdConv2d
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "PreActBasic",
    "PreActBottleneck",
    "ResNetV2",
    "resnetv2_18",
    "resnetv2_34",
    "resnetv2_50",
    "resnetv2_50d",
    "resnetv2_50x1_bit",
    "resnetv2_50x3_bit",
    "resnetv2_101",
    "resnetv2_101d",
    "resnetv2_101x1_bit",
    "resnetv2_152",
]


class Downsample(nn.Module):
    """1x1 convolution of the shortcut, without normalisation; with ``avg_down`` an average pool carries the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, conv, avg_down: bool):
        super().__init__()
        self.pool = (
            nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if avg_down and stride > 1 else None
        )
        self.conv = conv(in_channels, out_channels, 1, 1 if avg_down else stride, bias=False)

    def forward(self, x):
        return self.conv(x if self.pool is None else self.pool(x))


class PreActBasic(nn.Module):
    """Two pre-activated 3x3 convolutions.

    Args:
        in_channels, out_channels: widths.
        stride: of the first convolution.
        conv, norm: make a convolution, and the normalisation of a number of channels.
        downsample: makes the shortcut's projection, or None; here it is created if the shapes differ.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, conv, norm, downsample=None):
        super().__init__()
        self.downsample = None
        if stride > 1 or in_channels != out_channels:  # mirror: told whether
            self.downsample = downsample(in_channels, out_channels, stride)
        self.norm1 = norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, 1, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        return self.conv2(F.relu(self.norm2(y))) + shortcut


class PreActBottleneck(nn.Module):
    """Pre-activated 1x1, 3x3, 1x1 convolutions; the middle is a quarter as wide.

    Args:
        in_channels, out_channels: widths.
        stride: of the 3x3 convolution.
        conv, norm: make a convolution, and the normalisation of a number of channels.
        downsample: makes the shortcut's projection, or None if the input itself is the shortcut.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, conv, norm, downsample=None):
        super().__init__()
        width = make_divisible(out_channels / 4)
        self.downsample = None if downsample is None else downsample(in_channels, out_channels, stride)
        self.norm1 = norm(in_channels)
        self.conv1 = conv(in_channels, width, 1, bias=False)
        self.norm2 = norm(width)
        self.conv2 = conv(width, width, 3, stride, 1, bias=False)
        self.norm3 = norm(width)
        self.conv3 = conv(width, out_channels, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(y)  # the raw input, not the activated one
        y = self.conv1(y)
        y = self.conv2(F.relu(self.norm2(y)))
        return self.conv3(F.relu(self.norm3(y))) + shortcut


class Stage(nn.Module):
    """Blocks of one width; the first has the stride and, in the bottleneck variant, always a projection."""

    def __init__(self, block, depth: int, in_channels: int, out_channels: int, stride: int, conv, norm, downsample):
        super().__init__()
        blocks = [block(in_channels, out_channels, stride, conv, norm, downsample)]
        blocks += [block(out_channels, out_channels, 1, conv, norm) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Stem(nn.Module):
    """7x7 convolution alone, or three 3x3 ones (``deep``), then the pool.

    Args:
        in_chans, channels: widths.
        deep: widths of the first two of three 3x3 convolutions, with normalisation between them; or None.
        padded_pool: BiT's pool, where the border of zeros takes part in the maximum.
        conv, norm: make a convolution, and the normalisation of a number of channels.
    """

    def __init__(self, in_chans: int, channels: int, deep, padded_pool: bool, conv, norm):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, padding=0 if padded_pool else 1)
        self.deep, self.padded_pool = deep is not None, padded_pool
        if deep is None:
            self.conv = conv(in_chans, channels, 7, 2, 3, bias=False)
        else:
            self.conv1 = conv(in_chans, deep[0], 3, 2, 1, bias=False)
            self.norm1 = norm(deep[0])
            self.conv2 = conv(deep[0], deep[1], 3, 1, 1, bias=False)
            self.norm2 = norm(deep[1])
            self.conv3 = conv(deep[1], channels, 3, 1, 1, bias=False)

    def forward(self, x):
        if self.deep:
            x = F.relu(self.norm1(self.conv1(x)))
            x = F.relu(self.norm2(self.conv2(x)))
            x = self.conv3(x)
        else:
            x = self.conv(x)
        if self.padded_pool:
            x = F.pad(x, (1, 1, 1, 1))  # mirror: padding is explicit
        return self.pool(x)


class Head(nn.Module):
    """Global average pool and a classifier that is stored as a 1x1 convolution.  (N, C, H, W) -> (N, K)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.fc = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, x):
        return self.fc(x.mean((2, 3), keepdim=True))[:, :, 0, 0]  # mirror: NCHW


class ResNetV2(Backbone):
    """Stem, four stages, normalisation, classifier.

    Args:
        block: :class:`PreActBasic` or :class:`PreActBottleneck`.
        layers: blocks of each stage.
        channels: width of each stage's output.
        num_classes: classes K.
        in_chans: channels of the image.
        width_factor: multiplies all widths.
        stem_channels: width of the stem, before ``width_factor``.
        deep_stem: widths of the first two of three 3x3 convolutions, or None for the 7x7 one.
        avg_down: average pool before the projection of the shortcut.
        bit: BiT's variant: standardised kernels, group normalisation, padded pool.
        groups: of the group normalisation.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the stages (1 to 4) ``forward_features`` returns.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32), before
        normalisation.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        channels: tuple[int, ...] = (256, 512, 1024, 2048),
        num_classes: int = 1000,
        in_chans: int = 3,
        width_factor: int = 1,
        stem_channels: int = 64,
        deep_stem: tuple[int, int] | None = None,
        avg_down: bool = False,
        bit: bool = False,
        groups: int = 32,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        conv = functools.partial(StdConv2d, eps=1e-8) if bit else nn.Conv2d
        make_norm = functools.partial(nn.GroupNorm, groups) if bit else nn.BatchNorm2d
        downsample = functools.partial(Downsample, conv=conv, avg_down=avg_down)
        width = stem_channels * width_factor
        self.stem = Stem(in_chans, width, deep_stem, bit, conv, make_norm)
        stages = []
        for i, (depth, out) in enumerate(zip(layers, channels, strict=True)):
            out *= width_factor
            stages.append(Stage(block, depth, width, out, 1 if i == 0 else 2, conv, make_norm, downsample))
            width = out
        self.stages = nn.ModuleList(stages)
        if not features_only:
            self.norm = make_norm(width)
            self.head = Head(width, num_classes)
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.stem], *([stage] for stage in self.stages)]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = self.stem(images), {}
        for i, stage in enumerate(self.stages, start=1):
            if i > max(self.out_indices):
                break
            x = stage(x)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def forward(self, images):
        maps = self.forward_features(images)
        return maps if self.features_only else self.head(F.relu(self.norm(maps["c5"])))


def resnetv2_18(layers=(2, 2, 2, 2), channels=(64, 128, 256, 512), **options) -> ResNetV2:
    return ResNetV2(PreActBasic, layers=layers, channels=channels, **options)


def resnetv2_34(layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), **options) -> ResNetV2:
    return ResNetV2(PreActBasic, layers=layers, channels=channels, **options)


def resnetv2_50(layers=(3, 4, 6, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_101(layers=(3, 4, 23, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_152(layers=(3, 8, 36, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_50d(deep_stem=(32, 32), avg_down=True, **options) -> ResNetV2:
    return resnetv2_50(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnetv2_101d(deep_stem=(32, 32), avg_down=True, **options) -> ResNetV2:
    return resnetv2_101(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnetv2_50x1_bit(bit=True, **options) -> ResNetV2:
    return resnetv2_50(bit=bit, **options)


def resnetv2_101x1_bit(bit=True, **options) -> ResNetV2:
    return resnetv2_101(bit=bit, **options)


def resnetv2_50x3_bit(bit=True, width_factor=3, **options) -> ResNetV2:
    return resnetv2_50(bit=bit, width_factor=width_factor, **options)
