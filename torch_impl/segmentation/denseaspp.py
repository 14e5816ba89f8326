"""DenseASPP: on a dilated DenseNet, convolutions of growing dilation, each of which sees all results before it.

"DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018; "Densely Connected Convolutional Networks", 2016,
arXiv:1608.06993.
Layer names: DeepMotionAIResearch/DenseASPP ``models/DenseASPP.py`` (names and shapes only), without dots inside names.
What to look at: the first block's ReLU works on the features in place in the reference, so everything after it sees the
result; the newest features come first.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationPostProcess
from torch_impl.segmentation.gcn import GCNCriterion

__all__ = [
    "DenseASPP",
    "DenseASPPBlock",
    "DenseFeatures",
    "DenseLayer",
    "GCNCriterion",
    "SegmentationPostProcess",
    "Transition",
    "denseaspp_densenet121",
    "denseaspp_densenet161",
    "denseaspp_densenet169",
    "denseaspp_densenet201",
]


RATES = (3, 6, 12, 18, 24)


class DenseLayer(nn.Module):
    """Normalisation, ReLU, 1x1, and the same with 3x3; appended to the input.

    Args:
        in_channels: of the input.
        growth: channels that are appended; the 1x1 convolution has four times as many.
        dilation: of the 3x3 convolution.

    x: (N, C, H, W) -> (N, C + growth, H, W).
    """

    def __init__(self, in_channels: int, growth: int, dilation: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(y)))), 1)


class Transition(nn.Module):
    """Half the channels, and optionally half the size.  x: (N, C, H, W) -> (N, out_channels, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, pool: bool):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()

    def forward(self, x):
        return self.pool(self.conv(F.relu(self.norm(x))))


class DenseFeatures(nn.Module):
    """The dilated DenseNet.

    Args:
        growth: see :class:`DenseLayer`.
        initial: channels of the stem.
        layers: dense layers of the four blocks.
        output_stride: 8 or 16.

    x: (N, 3, H, W) -> (N, C, H / output_stride, W / output_stride); ``channels`` says C.
    """

    def __init__(self, growth: int, initial: int, layers: tuple[int, ...], output_stride: int):
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(3, initial, 7, 2, 3, bias=False), nn.BatchNorm2d(initial)
        self.pool0 = nn.MaxPool2d(3, 2, 1)
        dilations = (1, 1, 2, 4) if output_stride == 8 else (1, 1, 1, 2)
        pools = (True, output_stride == 16, False, False)
        channels = initial
        for i, (depth, dilation, pool) in enumerate(zip(layers, dilations, pools, strict=True), start=1):
            block = nn.Sequential()
            for j in range(depth):
                block.add_module(f"denselayer{j + 1}", DenseLayer(channels, growth, dilation))
                channels += growth
            self.add_module(f"denseblock{i}", block)
            self.add_module(f"transition{i}", Transition(channels, channels // 2, pool))
            channels //= 2
        self.norm5 = nn.BatchNorm2d(channels)
        self.channels = channels

    def forward(self, images):
        x = self.pool0(F.relu(self.norm0(self.conv0(images))))
        for i in range(1, 5):
            x = getattr(self, f"transition{i}")(getattr(self, f"denseblock{i}")(x))
        return self.norm5(x)


class DenseASPPBlock(nn.Module):
    """Normalisation (except in the first block), ReLU, 1x1, and the same with a dilated 3x3.

    Args:
        in_channels, mid_channels, out_channels: of the input, between, and of the result.
        rate: dilation.
        norm: whether there is a first normalisation.
        dropout: rate at the end.

    x: (N, C, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, rate: int, norm: bool, dropout: float):
        super().__init__()
        batch_norm = functools.partial(nn.BatchNorm2d, momentum=0.0003)
        self.norm1 = batch_norm(in_channels) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1)
        self.norm2 = batch_norm(mid_channels)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, padding=rate, dilation=rate)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return self.dropout(self.conv2(F.relu(self.norm2(y))))


class DenseASPP(nn.Module):
    """The network.

    Args:
        growth, initial, layers: see :class:`DenseFeatures`.
        d0, d1: channels between and of the result of each :class:`DenseASPPBlock`.
        num_classes: classes K.
        output_stride: 8 or 16.
        dropout: rate of the blocks, and of whole channels before the classifier.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"logits"`` (N, K, H', W') of eight times the size of the map.
    Raises: ValueError if ``output_stride`` is neither.
    """

    def __init__(
        self,
        growth: int,
        initial: int,
        layers: tuple[int, ...],
        d0: int,
        d1: int,
        num_classes: int = 19,
        output_stride: int = 8,
        dropout: float = 0.1,
    ):
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride={output_stride} must be 8 or 16")
        self.output_stride = output_stride
        self.features = DenseFeatures(growth, initial, layers, output_stride)
        channels = self.features.channels
        for i, rate in enumerate(RATES):
            self.add_module(f"ASPP_{rate}", DenseASPPBlock(channels, d0, d1, rate, i > 0, dropout))
            channels += d1
        self.classification = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images):
        x = F.relu(self.features(images))  # NOTE: in place in the reference
        if self.output_stride == 16:
            x = resize_bilinear(x, tuple(2 * n for n in map_size(x)))
        for rate in RATES:
            x = torch.cat((getattr(self, f"ASPP_{rate}")(x), x), 1)
        logits = self.classification(x)
        return {"logits": resize_bilinear(logits, tuple(8 * n for n in map_size(logits)))}


def denseaspp_densenet121(
    growth: int = 32, initial: int = 64, layers=(6, 12, 24, 16), d0: int = 128, d1: int = 64, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet161(
    growth: int = 48, initial: int = 96, layers=(6, 12, 36, 24), d0: int = 512, d1: int = 128, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet169(
    growth: int = 32, initial: int = 64, layers=(6, 12, 32, 32), d0: int = 336, d1: int = 168, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet201(
    growth: int = 32, initial: int = 64, layers=(6, 12, 48, 32), d0: int = 480, d1: int = 240, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)
