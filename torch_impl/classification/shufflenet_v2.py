"""ShuffleNet V2: half of the channels pass untouched, the other half is convolved, then both halves are mixed.

"ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018, arXiv:1807.11164.
Parameter names: torchvision ``models/shufflenetv2.py`` (BSD-3).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit in TensorFlow, because "same" would pad one side only at stride 2.
"""

import torch
from torch import nn

from torch_impl.layers.backbone import Backbone
from torch_impl.layers.channel_shuffle import channel_shuffle
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InvertedResidual",
    "ShuffleNetV2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1) -> list:
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def depthwise_bn(channels: int, stride: int) -> list:
    """3x3 depthwise convolution and batch normalisation, without activation."""
    return [
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]


class InvertedResidual(nn.Module):
    """The unit of figure 3 (c), and with stride 2 that of figure 3 (d), which convolves both halves.

    Args:
        in_channels, out_channels: widths; equal at stride 1.
        stride: 1 or 2.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        half = out_channels // 2
        self.branch1 = None
        if stride == 2:
            self.branch1 = nn.Sequential(*depthwise_bn(in_channels, stride), *conv_bn_relu(in_channels, half))
        self.branch2 = nn.Sequential(
            *conv_bn_relu(half if stride == 1 else in_channels, half),
            *depthwise_bn(half, stride),
            *conv_bn_relu(half, half),
        )

    def forward(self, x):
        if self.branch1 is None:
            half = x.shape[1] // 2
            x = torch.cat((x[:, :half], self.branch2(x[:, half:])), 1)  # mirror: NCHW
        else:
            x = torch.cat((self.branch1(x), self.branch2(x)), 1)
        return channel_shuffle(x, 2)


class ShuffleNetV2(Backbone):
    """The classifier.

    Args:
        layers: units of stages 2, 3, 4.
        channels: widths of the first convolution, the stages and the last convolution.
        num_classes: classes K.
        in_chans: channels of the image.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no last convolution and classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 4, 8, 16, 32 (0 to 3) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int, int, int],
        num_classes: int = 1000,
        in_chans: int = 3,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
    ):
        super().__init__()
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.conv1 = nn.Sequential(*conv_bn_relu(in_chans, channels[0], 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)  # mirror: padding is explicit
        for i, count in enumerate(layers):
            units = [InvertedResidual(channels[i], channels[i + 1], 2)]
            units += [InvertedResidual(channels[i + 1], channels[i + 1], 1) for _ in range(count - 1)]
            setattr(self, f"stage{i + 2}", nn.Sequential(*units))
        if not features_only:
            self.conv5 = nn.Sequential(*conv_bn_relu(channels[3], channels[4]))
            self.fc = nn.Linear(channels[4], num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.conv1], [self.stage2], [self.stage3], [self.stage4]]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.maxpool(self.conv1(images))
        maps = {"c2": x}
        for name, stage in zip(("c3", "c4", "c5"), (self.stage2, self.stage3, self.stage4), strict=True):
            x = maps[name] = stage(x)
        return {name: x for i, (name, x) in enumerate(maps.items()) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = self.maxpool(self.conv1(images))
        for stage in (self.stage2, self.stage3, self.stage4, self.conv5):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def shufflenet_v2_x0_5(layers=(4, 8, 4), channels=(24, 48, 96, 192, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x1_0(layers=(4, 8, 4), channels=(24, 116, 232, 464, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x1_5(layers=(4, 8, 4), channels=(24, 176, 352, 704, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x2_0(layers=(4, 8, 4), channels=(24, 244, 488, 976, 2048), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)
