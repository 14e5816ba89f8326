"""PAN: a small pyramid weights the last map, and every finer map is gated by the mean of the coarser one.

"Pyramid Attention Network for Semantic Segmentation", 2018, arXiv:1805.10180.
Parameter names: segmentation-models-pytorch ``decoders/pan`` (MIT).
What to look at: convolutions keep their bias before a normalisation; everything is resized with aligned corners.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import functools

from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationPostProcess
from torch_impl.segmentation.gcn import GCNCriterion

__all__ = [
    "PAN",
    "FPABlock",
    "GAUBlock",
    "GCNCriterion",
    "PANDecoder",
    "SegmentationPostProcess",
    "pan_resnet50",
    "pan_resnet101",
]


conv_bn = functools.partial(ConvModule, norm="batch", bias=True)
SMALLEST = 128  # pixels: three halvings of a map of stride 16


def resize(x, size: tuple[int, int]):
    """Bilinear, corners aligned."""
    return resize_bilinear(x, size, align_corners=True)


class FPABlock(nn.Module):
    """Feature pyramid attention: a map, weighted by a pyramid of itself (section 3.1).

    Args:
        in_channels, out_channels: of the map, and of the result.

    x: (N, C, H, W) -> (N, out_channels, H, W); H and W 8 or more.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.branch1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(in_channels, out_channels, 1))
        self.mid = nn.Sequential(conv_bn(in_channels, out_channels, 1))
        self.down1 = nn.Sequential(nn.MaxPool2d(2), conv_bn(in_channels, 1, 7, padding=3))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), conv_bn(1, 1, 5, padding=2))
        self.down3 = nn.Sequential(nn.MaxPool2d(2), conv_bn(1, 1, 3, padding=1), conv_bn(1, 1, 3, padding=1))
        self.conv2 = conv_bn(1, 1, 5, padding=2)
        self.conv1 = conv_bn(1, 1, 7, padding=3)

    def forward(self, x):
        height, width = map_size(x)
        x1 = self.down1(x)
        x2 = self.down2(x1)
        y = resize(self.down3(x2), (height // 4, width // 4)) + self.conv2(x2)
        y = resize(y, (height // 2, width // 2)) + self.conv1(x1)
        return resize(y, (height, width)) * self.mid(x) + resize(self.branch1(x), (height, width))


class GAUBlock(nn.Module):
    """Global attention upsample: a fine map, gated by the mean of a coarse one, and the coarse one (section 3.2).

    Args:
        in_channels, out_channels: of the fine map, and of the coarse one and the result.

    Inputs: the fine map (N, in_channels, H, W), the coarse one (N, out_channels, h, w).
    Returns: (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        gate = conv_bn(out_channels, out_channels, 1, activation=None)
        self.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), gate, nn.Sigmoid())
        self.conv2 = conv_bn(in_channels, out_channels, 3, padding=1)

    def forward(self, x, y):
        return resize(y, map_size(x)) + self.conv1(y) * self.conv2(x)


class PANDecoder(nn.Module):
    """Maps ``"c2"`` to ``"c5"`` of the encoder -> (N, channels, H / 4, W / 4)."""

    def __init__(self, in_channels: dict[str, int], channels: int):
        super().__init__()
        self.fpa = FPABlock(in_channels["c5"], channels)
        self.gau3 = GAUBlock(in_channels["c4"], channels)
        self.gau2 = GAUBlock(in_channels["c3"], channels)
        self.gau1 = GAUBlock(in_channels["c2"], channels)

    def forward(self, maps):
        x = self.gau3(maps["c4"], self.fpa(maps["c5"]))
        return self.gau1(maps["c2"], self.gau2(maps["c3"], x))


class PAN(nn.Module):
    """The network (figure 2).

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        channels: of the decoder.
        planes: nominal widths of the stages.

    Inputs: (N, 3, H, W) float, normalised, H and W 128 or more.
    Returns: dict: ``"logits"`` (N, K, H', W') of four times the size of the map ``"c2"``.
    Raises: ValueError if the images are smaller.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        channels: int = 32,
        planes: tuple[int, ...] = (64, 128, 256, 512),
    ):
        super().__init__()
        options = {"planes": planes, "output_stride": 16, "contract_dilation": False, "features_only": True}
        self.encoder = ResNet(Bottleneck, layers, **options)
        self.decoder = PANDecoder(self.encoder.channels, channels)
        self.segmentation_head = nn.Sequential(nn.Conv2d(channels, num_classes, 3, padding=1))

    def forward(self, images):
        if any(size < SMALLEST for size in map_size(images)):
            raise ValueError(f"images of {map_size(images)}: height and width must be {SMALLEST} or more")
        logits = self.segmentation_head(self.decoder(self.encoder(images)))
        return {"logits": resize(logits, tuple(4 * n for n in map_size(logits)))}


def pan_resnet50(layers=(3, 4, 6, 3), **options) -> PAN:
    return PAN(layers, **options)


def pan_resnet101(layers=(3, 4, 23, 3), **options) -> PAN:
    return PAN(layers, **options)
