"""A residual trunk whose convolutions are all of one kind, and whose normalisations have a special name.

Names: mmdet ``backbones/resnet.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input width, so a block there is told whether its shortcut needs a projection.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import CONV
from torch_impl.layers.backbone import Backbone
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.normalization import choose_norm

__all__ = ["ConvBottleneck", "ConvResNet"]


class ConvBottleneck(nn.Module):
    """1x1 reduction, 3x3 (grouped), 1x1 expansion by four, and a shortcut.

    Args:
        in_channels, planes: width of the input and nominal width of the block; the output has ``4 * planes``.
        stride: of the 3x3 convolution.
        groups, base_width: the 3x3 convolution has ``planes * base_width // 64`` channels in each group.
        conv, conv2: make all convolutions, and the 3x3 one.
        norm: makes the normalisation for a number of channels.
        norm_name: prefix of the normalisations' names, before their number.

    x: (N, C, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        groups: int,
        base_width: int,
        conv,
        conv2,
        norm,
        norm_name: str,
    ):
        super().__init__()
        width, out_channels = int(planes * base_width / 64) * groups, planes * self.expansion
        self.norm_name = norm_name
        self.conv1 = conv(in_channels, width, 1, bias=False)
        setattr(self, f"{norm_name}1", norm(width))
        self.conv2 = conv2(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        setattr(self, f"{norm_name}2", norm(width))
        self.conv3 = conv(width, out_channels, 1, bias=False)
        setattr(self, f"{norm_name}3", norm(out_channels))
        self.downsample = None
        if stride != 1 or in_channels != out_channels:  # mirror: told whether
            self.downsample = nn.Sequential(conv(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))

    def normalized(self, index: int, x):
        """The result of a convolution, normalised."""
        return getattr(self, f"{self.norm_name}{index}")(getattr(self, f"conv{index}")(x))

    def residual(self, x):
        """The input of the last ReLU."""
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.normalized(1, x))
        y = F.relu(self.normalized(2, y))
        return self.normalized(3, y) + identity

    def forward(self, x):
        return F.relu(self.residual(x))


class ConvResNet(Backbone):
    """Stem and four stages of :class:`ConvBottleneck`.

    Args:
        layers: blocks of each stage.
        planes: nominal width of each stage.
        groups, base_width, conv, norm_name: of the blocks; ``conv`` also of the stem.
        norm: see :class:`ResNet`.
        conv2: makes the 3x3 convolutions of stages 2 to 4; None for ``conv``.
        norm_eval, frozen_stages: see :class:`ResNet`.

    Inputs: (N, 3, H, W) float.
    Returns: dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32).
    """

    block = ConvBottleneck

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        groups: int = 1,
        base_width: int = 64,
        conv=CONV,
        conv2=None,
        norm="batch",
        norm_name: str = "bn",
        norm_eval: bool = True,
        frozen_stages: int = 1,
    ):
        super().__init__()
        self.norm_name, norm = norm_name, choose_norm(norm)
        self.conv1 = conv(3, planes[0], 7, 2, 3, bias=False)
        setattr(self, f"{norm_name}1", norm(planes[0]))
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels, self.known_channels = planes[0], {}
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            options = groups, base_width, conv, conv if i == 0 or conv2 is None else conv2, norm, norm_name
            blocks = []
            for j in range(depth):
                blocks.append(self.block(channels, width, 2 if i > 0 and j == 0 else 1, *options))
                channels = width * self.block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            self.known_channels[f"c{i + 2}"] = channels
        kaiming_normal(self)
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        stem = [self.conv1, getattr(self, f"{self.norm_name}1")]
        return [stem, [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward_stem(self, images):
        """(N, 3, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""
        return self.maxpool(F.relu(getattr(self, f"{self.norm_name}1")(self.conv1(images))))

    def forward_features(self, images) -> dict:
        x, maps = self.forward_stem(images), {}
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), start=2):
            x = maps[f"c{i}"] = stage(x)
        return maps

    def forward(self, images):
        return self.forward_features(images)
