"""Inception-ResNet-v2: Inception branches, projected back, scaled and added to their input.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", 2016, arXiv:1602.07261.
Parameter names: timm ``models/inception_resnet_v2.py`` (Apache-2.0). It has no auxiliary classifier.

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit there. The average pool does not count the zeros of the padding.
- Dropout follows the framework's own generator.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.googlenet import BasicConv2d, scaled
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.pooling import AvgPool2d, MaxPool2d, max_pool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "Block8",
    "Block17",
    "Block35",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InceptionResNetV2",
    "Mixed5b",
    "Mixed6a",
    "Mixed7a",
    "inception_resnet_v2",
]

SCALES = (0.17, 0.10, 0.20)  # of the residuals of the three stages; the paper says 0.1 to 0.3


class Mixed5b(nn.Module):
    """1x1, 5x5, twice 3x3, average pool side by side.

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c48, c64, c96 = scaled(width, 48, 64, 96)
        self.out_channels = 2 * c96 + 2 * c64
        self.branch0 = BasicConv2d(in_channels, c96, 1)
        # mirror: padding is explicit
        self.branch1 = nn.Sequential(BasicConv2d(in_channels, c48, 1), BasicConv2d(c48, c64, 5, padding=2))
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, c64, 1), BasicConv2d(c64, c96, 3, padding=1), BasicConv2d(c96, c96, 3, padding=1)
        )
        # mirror: average pool does not count
        self.branch3 = nn.Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), BasicConv2d(in_channels, c64, 1))

    def forward(self, x):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return torch.cat([branch(x) for branch in branches], 1)


class Block35(nn.Module):
    """Residual block of 35x35 maps: 1x1, 3x3, twice 3x3 (figure 16).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0):
        super().__init__()
        self.scale = scale
        c32, c48, c64 = scaled(width, 32, 48, 64)
        self.branch0 = BasicConv2d(channels, c32, 1)
        self.branch1 = nn.Sequential(BasicConv2d(channels, c32, 1), BasicConv2d(c32, c32, 3, padding=1))
        self.branch2 = nn.Sequential(
            BasicConv2d(channels, c32, 1), BasicConv2d(c32, c48, 3, padding=1), BasicConv2d(c48, c64, 3, padding=1)
        )
        self.conv2d = nn.Conv2d(2 * c32 + c64, channels, 1)

    def forward(self, x):
        branches = self.branch0, self.branch1, self.branch2
        y = torch.cat([branch(x) for branch in branches], 1)
        return F.relu(x + self.scale * self.conv2d(y), inplace=True)


class Mixed6a(nn.Module):
    """3x3, twice 3x3, max pool, all with stride 2 (figure 7).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c256, c384 = scaled(width, 256, 384)
        self.out_channels = 2 * c384 + in_channels
        self.branch0 = BasicConv2d(in_channels, c384, 3, 2)
        self.branch1 = nn.Sequential(
            BasicConv2d(in_channels, c256, 1), BasicConv2d(c256, c256, 3, padding=1), BasicConv2d(c256, c384, 3, 2)
        )
        self.branch2 = MaxPool2d(3, 2)

    def forward(self, x):
        pooled = self.branch2(x)
        return torch.cat((self.branch0(x), self.branch1(x), pooled), 1)


class Block17(nn.Module):
    """Residual block of 17x17 maps: 1x1, and 7x7 as 1x7 and 7x1 (figure 17).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0):
        super().__init__()
        self.scale = scale
        c128, c160, c192 = scaled(width, 128, 160, 192)
        self.branch0 = BasicConv2d(channels, c192, 1)
        self.branch1 = nn.Sequential(
            BasicConv2d(channels, c128, 1),
            BasicConv2d(c128, c160, (1, 7), padding=(0, 3)),
            BasicConv2d(c160, c192, (7, 1), padding=(3, 0)),
        )
        self.conv2d = nn.Conv2d(2 * c192, channels, 1)

    def forward(self, x):
        y = torch.cat((self.branch0(x), self.branch1(x)), 1)
        return F.relu(x + self.scale * self.conv2d(y), inplace=True)


class Mixed7a(nn.Module):
    """3x3, 3x3, twice 3x3, max pool, all with stride 2 (figure 18).

    Args:
        in_channels: width of the input.
        width: multiplier of all channels except ``in_channels``.

    x: (N, C, H, W) -> (N, out_channels, (H - 1) // 2, (W - 1) // 2).
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()
        c256, c288, c320, c384 = scaled(width, 256, 288, 320, 384)
        self.out_channels = c384 + c288 + c320 + in_channels
        self.branch0 = nn.Sequential(BasicConv2d(in_channels, c256, 1), BasicConv2d(c256, c384, 3, 2))
        self.branch1 = nn.Sequential(BasicConv2d(in_channels, c256, 1), BasicConv2d(c256, c288, 3, 2))
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, c256, 1), BasicConv2d(c256, c288, 3, padding=1), BasicConv2d(c288, c320, 3, 2)
        )
        self.branch3 = MaxPool2d(3, 2)

    def forward(self, x):
        pooled, branches = self.branch3(x), (self.branch0, self.branch1, self.branch2)
        return torch.cat([*(branch(x) for branch in branches), pooled], 1)


class Block8(nn.Module):
    """Residual block of 8x8 maps: 1x1, and 3x3 as 1x3 and 3x1 (figure 19).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.
        relu: whether a ReLU follows the sum; the last block has none.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0, relu: bool = True):
        super().__init__()
        self.scale, self.relu = scale, relu
        c192, c224, c256 = scaled(width, 192, 224, 256)
        self.branch0 = BasicConv2d(channels, c192, 1)
        self.branch1 = nn.Sequential(
            BasicConv2d(channels, c192, 1),
            BasicConv2d(c192, c224, (1, 3), padding=(0, 1)),
            BasicConv2d(c224, c256, (3, 1), padding=(1, 0)),
        )
        self.conv2d = nn.Conv2d(c192 + c256, channels, 1)

    def forward(self, x):
        y = torch.cat((self.branch0(x), self.branch1(x)), 1)
        y = x + self.scale * self.conv2d(y)
        return F.relu(y, inplace=True) if self.relu else y


class InceptionResNetV2(Backbone):
    """The classifier.

    Args:
        layers: residual blocks of the three stages; the last has one more, without scale and ReLU.
        scales: factors of their residuals.
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
        layers: tuple[int, int, int] = (10, 20, 9),
        scales: tuple[float, float, float] = SCALES,
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
        c32, c64, c80, c192, c1536 = scaled(width, 32, 64, 80, 192, 1536)
        self.conv2d_1a = BasicConv2d(in_chans, c32, 3, 2)
        self.conv2d_2a = BasicConv2d(c32, c32, 3)
        self.conv2d_2b = BasicConv2d(c32, c64, 3, padding=1)
        self.conv2d_3b = BasicConv2d(c64, c80, 1)
        self.conv2d_4a = BasicConv2d(c80, c192, 3)
        self.mixed_5b = Mixed5b(c192, width)
        channels = self.mixed_5b.out_channels
        self.repeat = nn.Sequential(*[Block35(channels, scales[0], width) for _ in range(layers[0])])
        self.mixed_6a = Mixed6a(channels, width)
        channels = self.mixed_6a.out_channels
        self.repeat_1 = nn.Sequential(*[Block17(channels, scales[1], width) for _ in range(layers[1])])
        self.mixed_7a = Mixed7a(channels, width)
        channels = self.mixed_7a.out_channels
        self.repeat_2 = nn.Sequential(*[Block8(channels, scales[2], width) for _ in range(layers[2])])
        self.block8 = Block8(channels, 1.0, width, relu=False)
        self.conv2d_7b = BasicConv2d(channels, c1536, 1)
        if not features_only:
            self.dropout = nn.Dropout(dropout)  # mirror: Dropout follows
            self.classif = nn.Linear(c1536, num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [
            [self.conv2d_1a, self.conv2d_2a, self.conv2d_2b],
            [self.conv2d_3b, self.conv2d_4a],
            [self.mixed_5b, self.repeat],
            [self.mixed_6a, self.repeat_1],
            [self.mixed_7a, self.repeat_2, self.block8, self.conv2d_7b],
        ]

    def _maps(self, images) -> list:
        """The last map at each stride, 2 to 32."""
        x = self.conv2d_2a(self.conv2d_1a(images))
        maps = [self.conv2d_2b(x)]
        x = self.conv2d_3b(max_pool2d(maps[-1], 3, 2))
        maps.append(self.conv2d_4a(x))
        x = self.mixed_5b(max_pool2d(maps[-1], 3, 2))
        maps.append(self.repeat(x))
        x = self.mixed_6a(maps[-1])
        maps.append(self.repeat_1(x))
        x = self.mixed_7a(maps[-1])
        x = self.block8(self.repeat_2(x))
        maps.append(self.conv2d_7b(x))
        return maps

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {f"c{i + 1}": x for i, x in enumerate(self._maps(images)) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = self._maps(images)[-1]
        return self.classif(self.dropout(x.mean((2, 3))))  # mirror: NCHW


def inception_resnet_v2(**options) -> InceptionResNetV2:
    return InceptionResNetV2(**options)
