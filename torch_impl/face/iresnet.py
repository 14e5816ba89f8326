"""IResNet: the residual network of ArcFace, with a normalisation before each convolution and large maps at the end.

"ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2018, arXiv:1801.07698, section 3.2.2. Parameter
names: deepinsight/insightface ``recognition/arcface_torch/backbones/iresnet.py`` (MIT; its weights are for research
only). What to look at: the first stage halves the map as well, the stride is in the second convolution of a block,
there is no activation after the addition, and the embedding comes from all 7x7 cells, not from their mean.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- The last map is flattened as (C, H, W) in both.
- The scale of the last normalisation stays at one: no gradient here, a non-trainable variable in Keras.
"""

import functools

from torch import nn

from torch_impl.metric.arcface import ArcFaceCriterion

__all__ = [
    "ArcFaceCriterion",
    "IBasicBlock",
    "IResNet",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet200",
]

CONV = functools.partial(nn.Conv2d, bias=False)


class IBasicBlock(nn.Module):
    """Normalisation, 3x3 convolution, normalisation, PReLU, 3x3 convolution, normalisation, and a shortcut.

    Args:
        in_channels, out_channels: widths.
        stride: of the second convolution.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1, self.bn2 = CONV(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels)
        self.conv2, self.bn3 = CONV(out_channels, out_channels, 3, stride, padding=1), nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(CONV(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        y = self.bn2(self.conv1(self.bn1(x)))
        y = self.bn3(self.conv2(self.prelu(y)))
        return y + (x if self.downsample is None else self.downsample(x))


class FixedScale(nn.BatchNorm1d):
    """Batch normalisation without a learnt scale.  (N, C) -> (N, C)."""

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.weight.requires_grad_(False)  # mirror: stays at one


class IResNet(nn.Module):
    """The network from an aligned face to its embedding.

    Args:
        layers: blocks of the four stages.
        planes: their widths.
        num_features: length D of the embedding.
        size: size of the images.
        dropout: rate before the last layer.

    Inputs: (N, 3, size, size) float, RGB / 127.5 - 1, aligned.
    Returns: (N, D), not normalised; faces are compared by the cosine.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 14, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_features: int = 512,
        size: int = 112,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv1, self.bn1, self.prelu = (
            CONV(3, planes[0], 3, padding=1),
            nn.BatchNorm2d(planes[0]),
            nn.PReLU(planes[0]),
        )
        width = planes[0]
        for i, (count, filters) in enumerate(zip(layers, planes, strict=True), start=1):
            blocks = [IBasicBlock(width, filters, 2), *(IBasicBlock(filters, filters) for _ in range(count - 1))]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            width = filters
            size = -(-size // 2)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width * size * size, num_features)
        self.features = FixedScale(num_features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images):
        x = self.prelu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        x = self.bn2(x)  # mirror: NCHW
        x = x.flatten(1)  # mirror: flattened
        return self.features(self.fc(self.dropout(x)))


def iresnet18(layers=(2, 2, 2, 2), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet34(layers=(3, 4, 6, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet50(layers=(3, 4, 14, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet100(layers=(3, 13, 30, 3), **options) -> IResNet:
    return IResNet(layers, **options)


def iresnet200(layers=(6, 26, 60, 6), **options) -> IResNet:
    return IResNet(layers, **options)
