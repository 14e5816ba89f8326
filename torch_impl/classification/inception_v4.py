"""Inception v4: a branched stem, and three kinds of uniform blocks with reductions between them.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", 2016, arXiv:1602.07261.
Parameter names: timm ``models/inception_v4.py`` (Apache-2.0). The auxiliary classifier of the paper is not in it.

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there. The average pools do not count the zeros of the padding.
- Dropout follows the framework's own generator.
"""

import torch
from torch import nn

from torch_impl.classification.googlenet import BasicConv2d, scaled
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.pooling import AvgPool2d, MaxPool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionV4",
    "ReductionA",
    "ReductionB",
    "StemA",
    "StemB",
    "StemC",
    "inception_v4",
]


class StemA(nn.Module):
    """Max pool and 3x3 convolution with stride 2 (figure 3, below).

    Args:
        in_channels, channels: width of the input and of the convolution.

    x: (N, C, H, W) -> (N, C + channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.out_channels = in_channels + channels
        self.maxpool = MaxPool2d(3, 2)
        self.conv = BasicConv2d(in_channels, channels, 3, 2)

    def forward(self, x):
        return torch.cat((self.maxpool(x), self.conv(x)), 1)


class StemB(nn.Module):
    """3x3 next to 7x7 and 3x3, without padding (figure 3, middle).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, H - 2, W - 2).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c64, c96 = scaled(width, 64, 96)
        self.out_channels = 2 * c96
        self.branch0 = nn.Sequential(BasicConv2d(in_channels, c64, 1), BasicConv2d(c64, c96, 3))
        self.branch1 = nn.Sequential(
            BasicConv2d(in_channels, c64, 1),
            BasicConv2d(c64, c64, (1, 7), padding=(0, 3)),  # mirror: padding is explicit
            BasicConv2d(c64, c64, (7, 1), padding=(3, 0)),
            BasicConv2d(c64, c96, 3),
        )

    def forward(self, x):
        return torch.cat((self.branch0(x), self.branch1(x)), 1)


class StemC(nn.Module):
    """3x3 convolution with stride 2 and max pool: unlike in :class:`StemA`, the convolution comes first.

    Args:
        in_channels: width of the input and of the convolution.

    x: (N, C, H, W) -> (N, 2 C, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int):
        super().__init__()
        self.out_channels = 2 * in_channels
        self.conv = BasicConv2d(in_channels, in_channels, 3, 2)
        self.maxpool = MaxPool2d(3, 2)

    def forward(self, x):
        return torch.cat((self.conv(x), self.maxpool(x)), 1)


class InceptionA(nn.Module):
    """1x1, 3x3, twice 3x3, average pool side by side (figure 4).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c64, c96 = scaled(width, 64, 96)
        self.out_channels = 4 * c96
        self.branch0 = BasicConv2d(in_channels, c96, 1)
        self.branch1 = nn.Sequential(BasicConv2d(in_channels, c64, 1), BasicConv2d(c64, c96, 3, padding=1))
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, c64, 1), BasicConv2d(c64, c96, 3, padding=1), BasicConv2d(c96, c96, 3, padding=1)
        )
        # mirror: do not count the zeros
        self.branch3 = nn.Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), BasicConv2d(in_channels, c96, 1))

    def forward(self, x):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return torch.cat([branch(x) for branch in branches], 1)


class ReductionA(nn.Module):
    """3x3, twice 3x3, max pool, all with stride 2 (figure 7).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c192, c224, c256, c384 = scaled(width, 192, 224, 256, 384)
        self.out_channels = c384 + c256 + in_channels
        self.branch0 = BasicConv2d(in_channels, c384, 3, 2)
        self.branch1 = nn.Sequential(
            BasicConv2d(in_channels, c192, 1), BasicConv2d(c192, c224, 3, padding=1), BasicConv2d(c224, c256, 3, 2)
        )
        self.branch2 = MaxPool2d(3, 2)

    def forward(self, x):
        pooled = self.branch2(x)
        return torch.cat((self.branch0(x), self.branch1(x), pooled), 1)


class InceptionB(nn.Module):
    """1x1, 7x7, twice 7x7, average pool side by side; 7x7 as 1x7 and 7x1 (figure 5).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c128, c192, c224, c256, c384 = scaled(width, 128, 192, 224, 256, 384)
        self.out_channels = c384 + 2 * c256 + c128
        self.branch0 = BasicConv2d(in_channels, c384, 1)
        self.branch1 = nn.Sequential(
            BasicConv2d(in_channels, c192, 1),
            BasicConv2d(c192, c224, (1, 7), padding=(0, 3)),
            BasicConv2d(c224, c256, (7, 1), padding=(3, 0)),
        )
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, c192, 1),
            BasicConv2d(c192, c192, (7, 1), padding=(3, 0)),
            BasicConv2d(c192, c224, (1, 7), padding=(0, 3)),
            BasicConv2d(c224, c224, (7, 1), padding=(3, 0)),
            BasicConv2d(c224, c256, (1, 7), padding=(0, 3)),
        )
        self.branch3 = nn.Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), BasicConv2d(in_channels, c128, 1))

    def forward(self, x):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return torch.cat([branch(x) for branch in branches], 1)


class ReductionB(nn.Module):
    """3x3, 7x7 and 3x3, max pool, all with stride 2 (figure 8).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c192, c256, c320 = scaled(width, 192, 256, 320)
        self.out_channels = c192 + c320 + in_channels
        self.branch0 = nn.Sequential(BasicConv2d(in_channels, c192, 1), BasicConv2d(c192, c192, 3, 2))
        self.branch1 = nn.Sequential(
            BasicConv2d(in_channels, c256, 1),
            BasicConv2d(c256, c256, (1, 7), padding=(0, 3)),
            BasicConv2d(c256, c320, (7, 1), padding=(3, 0)),
            BasicConv2d(c320, c320, 3, 2),
        )
        self.branch2 = MaxPool2d(3, 2)

    def forward(self, x):
        pooled = self.branch2(x)
        return torch.cat((self.branch0(x), self.branch1(x), pooled), 1)


class InceptionC(nn.Module):
    """1x1, 3x3, twice 3x3, average pool side by side; the last 3x3 is 1x3 next to 3x1 (figure 6).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c256, c384, c448, c512 = scaled(width, 256, 384, 448, 512)
        self.out_channels = 6 * c256
        self.branch0 = BasicConv2d(in_channels, c256, 1)
        self.branch1_0 = BasicConv2d(in_channels, c384, 1)
        self.branch1_1a = BasicConv2d(c384, c256, (1, 3), padding=(0, 1))
        self.branch1_1b = BasicConv2d(c384, c256, (3, 1), padding=(1, 0))
        self.branch2_0 = BasicConv2d(in_channels, c384, 1)
        self.branch2_1 = BasicConv2d(c384, c448, (3, 1), padding=(1, 0))
        self.branch2_2 = BasicConv2d(c448, c512, (1, 3), padding=(0, 1))
        self.branch2_3a = BasicConv2d(c512, c256, (1, 3), padding=(0, 1))
        self.branch2_3b = BasicConv2d(c512, c256, (3, 1), padding=(1, 0))
        self.branch3 = nn.Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), BasicConv2d(in_channels, c256, 1))

    def forward(self, x):
        one, pooled = self.branch0(x), self.branch3(x)
        three = self.branch1_0(x)
        wide, high = self.branch1_1a(three), self.branch1_1b(three)
        twice = self.branch2_1(self.branch2_0(x))
        twice = self.branch2_2(twice)
        wide2, high2 = self.branch2_3a(twice), self.branch2_3b(twice)
        return torch.cat((one, wide, high, wide2, high2, pooled), 1)


class InceptionV4(Backbone):
    """The classifier.

    Args:
        layers: blocks A, B, C.
        width: multiplier of all channels.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, .... The
        convolutions of the stem and those with stride 2 do not pad, so the maps are a little smaller than the image
        divided by the stride.
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (4, 7, 3),
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.0,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        c32, c64, c96 = scaled(width, 32, 64, 96)
        features = [BasicConv2d(in_chans, c32, 3, 2), BasicConv2d(c32, c32, 3), BasicConv2d(c32, c64, 3, padding=1)]
        self.stage_ends = [2, 3]  # index of the last block at each stride
        features.append(StemA(c64, c96))
        features.append(StemB(features[-1].out_channels, width))
        features.append(StemC(features[-1].out_channels))
        kinds = (InceptionA, ReductionA), (InceptionB, ReductionB), (InceptionC, None)
        for count, (block, reduction) in zip(layers, kinds, strict=True):
            for _ in range(count):
                features.append(block(features[-1].out_channels, width))
            self.stage_ends.append(len(features) - 1)
            if reduction is not None:
                features.append(reduction(features[-1].out_channels, width))
        self.features = nn.ModuleList(features)
        if not features_only:
            self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows
            self.last_linear = nn.Linear(features[-1].out_channels, num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = images
        for block in self.features:
            x = block(x)
        return self.last_linear(self.dropout(x.mean((2, 3))))  # mirror: NCHW


def inception_v4(**options) -> InceptionV4:
    return InceptionV4(**options)
