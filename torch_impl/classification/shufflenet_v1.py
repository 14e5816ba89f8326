"""ShuffleNet: 1x1 convolutions in groups, and a shuffle that lets the groups see each other.

"ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", 2017, arXiv:1707.01083.
Parameter names: megvii-model/ShuffleNet-Series ``ShuffleNetV1`` (MIT).

Mirror notes:
- NCHW here, NHWC in TensorFlow; padding is explicit in TensorFlow, because "same" would pad one side only at stride 2.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.backbone import Backbone, split
from torch_impl.layers.channel_shuffle import channel_shuffle
from torch_impl.layers.normalization import BatchNorm2d
from torch_impl.layers.pooling import AvgPool2d
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ShuffleNetV1",
    "ShuffleUnit",
    "shufflenet_v1_g3_x0_5",
    "shufflenet_v1_g3_x1_0",
    "shufflenet_v1_g3_x1_5",
    "shufflenet_v1_g3_x2_0",
    "shufflenet_v1_g8_x0_5",
    "shufflenet_v1_g8_x1_0",
    "shufflenet_v1_g8_x1_5",
    "shufflenet_v1_g8_x2_0",
]


class ShuffleUnit(nn.Module):
    """1x1 in groups, 3x3 depthwise, shuffle, 1x1 in groups (figure 2 b; figure 2 c at stride 2).

    The paper shuffles before the depthwise convolution; the published weights shuffle after it, by the inverse
    permutation.

    Args:
        in_channels, out_channels: widths; equal at stride 1.
        groups: of the 1x1 convolutions.
        stride: 1 adds the input; 2 appends its mean over 3x3 windows, whose channels the branch leaves out.
        first: the very first unit, whose first 1x1 convolution has a single group.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, stride: int, first: bool):
        super().__init__()
        self.groups, self.stride = groups, stride
        hidden = out_channels // 4
        branch = out_channels if stride == 1 else out_channels - in_channels
        self.branch_main_1 = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, groups=1 if first else groups, bias=False),
            BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            BatchNorm2d(hidden),
        )
        self.branch_main_2 = nn.Sequential(
            nn.Conv2d(hidden, branch, 1, groups=groups, bias=False),
            BatchNorm2d(branch),
        )
        self.branch_proj = AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x):
        y = self.branch_main_1(x)
        y = self.branch_main_2(channel_shuffle(y, y.shape[1] // self.groups))
        if self.branch_proj is None:
            return F.relu(x + y)
        return torch.cat((self.branch_proj(x), F.relu(y)), 1)  # mirror: NCHW


class ShuffleNetV1(Backbone):
    """The classifier.

    Args:
        layers: units of stages 2, 3, 4.
        channels: widths of the first convolution and the stages.
        groups: of the 1x1 convolutions.
        num_classes: classes K.
        in_chans: channels of the image.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 4, 8, 16, 32 (0 to 3) are returned with ``features_only``.

    Inputs: (N, in_chans, H, W) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int, int],
        groups: int,
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
        # mirror: padding is explicit
        self.first_conv = nn.Sequential(
            nn.Conv2d(in_chans, channels[0], 3, 2, 1, bias=False), BatchNorm2d(channels[0]), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        units, width = [], channels[0]
        self.stage_ends = []  # index of the last unit of each stage
        for out, count in zip(channels[1:], layers, strict=True):
            for i in range(count):
                units.append(ShuffleUnit(width, out, groups, 2 if i == 0 else 1, not units))
                width = out
            self.stage_ends.append(len(units) - 1)
        self.features = nn.ModuleList(units)
        if not features_only:
            self.classifier = nn.Sequential(nn.Linear(width, num_classes, bias=False))
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01 if name.startswith("first") else 1 / module.weight.shape[1])
            elif isinstance(module, BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.first_conv], *split(self.features, self.stage_ends)]

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.maxpool(self.first_conv(images))
        maps = {"c2": x}
        for i, unit in enumerate(self.features):
            x = unit(x)
            if i in self.stage_ends:
                maps[f"c{self.stage_ends.index(i) + 3}"] = x
        return {name: x for i, (name, x) in enumerate(maps.items()) if i in self.out_indices}

    def forward(self, images):
        if self.features_only:
            return self.forward_features(images)
        x = self.maxpool(self.first_conv(images))
        for unit in self.features:
            x = unit(x)
        return self.classifier(x.mean((2, 3)))


def shufflenet_v1_g3_x0_5(layers=(4, 8, 4), channels=(12, 120, 240, 480), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x1_0(layers=(4, 8, 4), channels=(24, 240, 480, 960), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x1_5(layers=(4, 8, 4), channels=(24, 360, 720, 1440), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x2_0(layers=(4, 8, 4), channels=(48, 480, 960, 1920), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x0_5(layers=(4, 8, 4), channels=(16, 192, 384, 768), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x1_0(layers=(4, 8, 4), channels=(24, 384, 768, 1536), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x1_5(layers=(4, 8, 4), channels=(24, 576, 1152, 2304), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x2_0(layers=(4, 8, 4), channels=(48, 768, 1536, 3072), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)
