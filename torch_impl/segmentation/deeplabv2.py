"""DeepLab v2: a dilated ResNet, and parallel convolutions of four dilations whose scores are added.

"DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs", 2016,
arXiv:1606.00915.
Parameter names: kazuto1011/deeplab-pytorch ``libs/models`` (MIT), after the authors' Caffe networks.
What to look at: all blocks of a stage have its dilation, strides are on the first 1x1 convolution, the pool rounds up.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Images are scaled by the given factor: the reference does not divide the sizes.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationPostProcess, pixel_cross_entropy

__all__ = [
    "ASPP",
    "Bottleneck",
    "DeepLabV2",
    "DeepLabV2Criterion",
    "MultiScale",
    "SegmentationPostProcess",
    "deeplabv2_resnet101",
    "deeplabv2_resnet101_msc",
    "scaled",
]


conv_bn = functools.partial(ConvModule, norm=functools.partial(nn.BatchNorm2d, momentum=0.001))


class Bottleneck(nn.Module):
    """1x1 with the stride, 3x3 with the dilation, 1x1, a shortcut.  x: (N, C, H, W) -> (N, out_channels, H', W')."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, shortcut: bool):
        super().__init__()
        width = out_channels // 4
        self.reduce = conv_bn(in_channels, width, 1, stride)
        self.conv3x3 = conv_bn(width, width, 3, padding=dilation, dilation=dilation)
        self.increase = conv_bn(width, out_channels, 1, activation=None)
        self.shortcut = conv_bn(in_channels, out_channels, 1, stride, activation=None) if shortcut else nn.Identity()

    def forward(self, x):
        return F.relu(self.increase(self.conv3x3(self.reduce(x))) + self.shortcut(x))


class ASPP(nn.Module):
    """The sum of convolutions of several dilations (section 3.2).  x: (N, C, H, W) -> (N, K, H, W)."""

    def __init__(self, in_channels: int, num_classes: int, rates: tuple[int, ...]):
        super().__init__()
        for i, rate in enumerate(rates):
            conv = nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
            self.add_module(f"c{i}", conv)

    def forward(self, x):
        return sum(conv(x) for conv in self.children())


class DeepLabV2(nn.Module):
    """The network at one scale.

    Args:
        num_classes: classes K.
        layers: blocks of the four stages.
        width: channels of the stem; the first stage has four times as many, doubled from stage to stage.
        rates: dilations of the parallel convolutions.

    Inputs: (N, 3, H, W) float, BGR minus the mean.
    Returns: dict: ``"logits"`` (N, K, H / 8, W / 8).
    """

    def __init__(
        self,
        num_classes: int = 21,
        layers: tuple[int, ...] = (3, 4, 23, 3),
        width: int = 64,
        rates: tuple[int, ...] = (6, 12, 18, 24),
    ):
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", conv_bn(3, width, 7, 2, 3))
        self.layer1.add_module("pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        channels = width
        for i, (depth, stride, dilation) in enumerate(zip(layers, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            out_channels, stage = 4 * width * 2**i, nn.Sequential()
            for j in range(depth):
                block = Bottleneck(channels, out_channels, stride if j == 0 else 1, dilation, shortcut=j == 0)
                stage.add_module(f"block{j + 1}", block)
                channels = out_channels
            self.add_module(f"layer{i + 2}", stage)
        self.aspp = ASPP(channels, num_classes, rates)

    def forward(self, images):
        x = images
        for i in range(1, 6):
            x = getattr(self, f"layer{i}")(x)
        return {"logits": self.aspp(x)}


def scaled(images, factor: float):
    """Bilinear, floor(factor * size).  (N, C, H, W) -> (N, C, h, w)."""
    return F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)  # mirror: given factor


class MultiScale(nn.Module):
    """The largest of the scores at several scales (section 4.1).

    Args:
        base: the network at one scale.

    Inputs: as of the network.
    Returns: dict of logits (N, K, h, w): ``"logits"``, the largest; ``"full"``, ``"half"``, ``"threequarters"``, of
        each scale.
    """

    def __init__(self, base: DeepLabV2):
        super().__init__()
        self.base = base

    def forward(self, images):
        full = self.base(images)["logits"]
        half, threequarters = (self.base(scaled(images, factor))["logits"] for factor in (0.5, 0.75))
        resized = [resize_bilinear(x, map_size(full)) for x in (half, threequarters)]
        largest = torch.stack([full, *resized]).amax(0)
        return {"logits": largest, "full": full, "half": half, "threequarters": threequarters}


class DeepLabV2Criterion(nn.Module):
    """Cross-entropy of every map of scores, at its own size.

    Args:
        ignore_index: label of pixels that do not count.

    Inputs: ``outputs``, maps of logits (N, K, h, w); ``targets["labels"]`` (N, H, W) int, sampled to each map's size.
    Returns: dict of scalars: one for each map, ``"ce"`` for ``"logits"``; ``"total"``.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, outputs, targets):
        losses = {}
        for name, logits in outputs.items():
            labels = nearest(targets["labels"], map_size(logits))
            loss = pixel_cross_entropy(logits, labels, self.ignore_index, avg_non_ignore=True)
            losses["ce" if name == "logits" else name] = loss
        return {**losses, "total": sum(losses.values())}


def nearest(labels, size: tuple[int, int]):
    """Labels (N, H, W) at another size: the one under the centre of each pixel."""
    for axis, length in enumerate(size, start=1):
        index = (torch.arange(length, device=labels.device) + 0.5) * (labels.shape[axis] / length)
        labels = labels.index_select(axis, index.floor().long())
    return labels


def deeplabv2_resnet101(**options) -> DeepLabV2:
    return DeepLabV2(**options)


def deeplabv2_resnet101_msc(**options) -> MultiScale:
    return MultiScale(DeepLabV2(**options))
