"""EMANet: the map is reconstructed from a few bases, found in it by a few steps of expectation and maximisation.

"Expectation-Maximization Attention Networks for Semantic Segmentation", 2019, arXiv:1907.13426.
Parameter names: mmsegmentation ``decode_heads/ema_head.py`` (Apache-2.0); of :class:`EMANet` those of the authors'
checkpoints (XiaLiPKU/EMANet ``network.py``).
What to look at: bases and responsibilities have no gradient; they start from a moving average.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "ConvBNReLU",
    "EMACriterion",
    "EMAHead",
    "EMAModule",
    "EMANet",
    "EMAUnit",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "emanet_r50_d8",
    "emanet_r101_d8",
    "emanet_resnet50",
    "emanet_resnet101",
]

NORM = functools.partial(nn.BatchNorm2d, momentum=3e-4)  # as in the authors' settings


def at_least(divisor):
    """mmsegmentation's guard against 0."""
    return divisor.clamp(min=1e-12)


def raised(divisor):
    """The authors' guard against 0."""
    return divisor + 1e-6


def normalized(bases, guard):
    """Bases (N, C, K) divided by their guarded lengths."""
    return bases / guard(bases.square().sum(1, keepdim=True).sqrt())


def rebuilt_from_bases(places, bases, num_stages: int, guard):
    """A map, rebuilt from the bases that steps of expectation and maximisation find in it (section 3.2).

    Args:
        places: (N, C, P).
        bases: (1, C, K), from which the first step starts.
        num_stages: number of steps, 1 or more.
        guard: keeps divisors above 0.

    Returns:
        (N, C, P), and the bases of every image (N, C, K).
    """
    bases = bases.expand(places.shape[0], -1, -1)
    for _ in range(num_stages):
        weights = (places.transpose(1, 2) @ bases).softmax(-1)  # (N, P, K)
        bases = normalized(places @ (weights / guard(weights.sum(1, keepdim=True))), guard)
    return bases @ weights.transpose(1, 2), bases


class EMAModule(nn.Module):
    """The map, rebuilt from its bases.

    Args:
        channels: width C of the map.
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of a batch's bases in the next batch's initial ones.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1):
        super().__init__()
        self.num_stages, self.momentum = num_stages, momentum
        bases = torch.randn(1, channels, num_bases) * (2 / num_bases) ** 0.5
        self.register_buffer("bases", normalized(bases, at_least))

    def forward(self, x):
        with torch.no_grad():
            rebuilt, bases = rebuilt_from_bases(x.flatten(2), self.bases, self.num_stages, at_least)
            if self.training:
                found = normalized(bases.mean(0, keepdim=True), at_least)
                self.bases.copy_((1 - self.momentum) * self.bases + self.momentum * found)
        return rebuilt.reshape(x.shape)


class EMAHead(DecodeHead):
    """A convolution, the rebuilt map added to its result, and two more convolutions.

    Args:
        in_channels: of the map ``"c5"``.
        channels: of the last convolutions.
        num_classes, dropout: see :class:`DecodeHead`.
        ema_channels: of the map that is rebuilt.
        num_bases, num_stages, momentum: see :class:`EMAModule`.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        num_classes: int = 19,
        dropout: float = 0.1,
        ema_channels: int = 512,
        num_bases: int = 64,
        num_stages: int = 3,
        momentum: float = 0.1,
    ):
        super().__init__(channels, num_classes, dropout)
        self.ema_module = EMAModule(ema_channels, num_bases, num_stages, momentum)
        self.ema_in_conv = conv_bn(in_channels, ema_channels, 3, padding=1)
        self.ema_mid_conv = conv_bn(ema_channels, ema_channels, 1, norm=None, activation=None)
        self.ema_mid_conv.requires_grad_(False)
        self.ema_out_conv = conv_bn(ema_channels, ema_channels, 1, activation=None)
        self.bottleneck = conv_bn(ema_channels, channels, 3, padding=1)
        self.conv_cat = conv_bn(in_channels + channels, channels, 3, padding=1)

    def forward(self, maps):
        x = self.ema_in_conv(maps["c5"])
        rebuilt = self.ema_out_conv(F.relu(self.ema_module(self.ema_mid_conv(x))))
        y = self.bottleneck(F.relu(x + rebuilt))
        return self.classify(self.conv_cat(torch.cat((maps["c5"], y), 1)))


def emanet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 256,
    aux_channels: int = 256,
    dropout: float = 0.1,
    ema_channels: int = 512,
    num_bases: int = 64,
    num_stages: int = 3,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = EMAHead(backbone.channels["c5"], channels, num_classes, dropout, ema_channels, num_bases, num_stages)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def emanet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return emanet_r50_d8(depth=depth, **options)


class ConvBNReLU(nn.Module):
    """A 3x3 convolution, normalisation, ReLU.  x: (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = NORM(out_channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class EMAUnit(nn.Module):
    """A map and its reconstruction from bases, as in the authors' code: with 1e-6 added to the divisors.

    The first convolution gets no gradient, as no gradient goes through the steps.

    Args:
        channels: width C of the map.
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of a batch's bases in the next batch's initial ones.

    Inputs: (N, C, H, W).
    Returns: (N, C, H, W), and the bases of every image (N, C, K).
    """

    def __init__(self, channels: int, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1):
        super().__init__()
        self.num_stages, self.momentum = num_stages, momentum
        bases = torch.randn(1, channels, num_bases) * (2 / num_bases) ** 0.5
        self.register_buffer("mu", normalized(bases, raised))
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), NORM(channels))
        for conv in (self.conv1, self.conv2[0]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        with torch.no_grad():
            rebuilt, bases = rebuilt_from_bases(self.conv1(x).flatten(2), self.mu, self.num_stages, raised)
            if self.training:
                self.mu.copy_((1 - self.momentum) * self.mu + self.momentum * bases.mean(0, keepdim=True))
        return F.relu(self.conv2(F.relu(rebuilt.reshape(x.shape))) + x), bases


class EMANet(nn.Module):
    """The authors' network: a deep stem, dilations of 1, 2 and 4 times 4 in the last stage, no auxiliary head.

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        planes: nominal widths of the stages.
        ema_channels, num_bases, num_stages: see :class:`EMAUnit`.
        channels: of the last map.
        dropout: rate, of whole channels.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"logits"`` (N, K, H, W), ``"bases"`` (N, ema_channels, num_bases).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        ema_channels: int = 512,
        num_bases: int = 64,
        num_stages: int = 3,
        channels: int = 256,
        dropout: float = 0.1,
    ):
        super().__init__()
        trunk = ResNet(
            Bottleneck,
            layers,
            planes=planes,
            deep_stem=(planes[0], planes[0], 2 * planes[0]),
            output_stride=8,
            multi_grid=(2, 8, 16),
            norm=NORM,
            features_only=True,
        )
        stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        self.extractor = nn.Sequential(trunk.conv1, trunk.bn1, nn.ReLU(), trunk.maxpool, *stages)
        self.fc0 = ConvBNReLU(trunk.channels["c5"], ema_channels)
        self.emau = EMAUnit(ema_channels, num_bases, num_stages)
        self.fc1 = nn.Sequential(ConvBNReLU(ema_channels, channels), nn.Dropout2d(dropout))  # mirror: whole channels
        self.fc2 = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images):
        x, bases = self.emau(self.fc0(self.extractor(images)))
        logits = self.fc2(self.fc1(x))
        return {"logits": resize_bilinear(logits, map_size(images), align_corners=True), "bases": bases}


class EMACriterion(SegmentationCriterion):
    """Mean cross-entropy of all pixels, those that are ignored counted as 0.

    Args:
        ignore_index: label of pixels that add nothing.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__((("ce", "logits", 1.0),), ignore_index)


def emanet_resnet50(layers=(3, 4, 6, 3), **options) -> EMANet:
    return EMANet(layers, **options)


def emanet_resnet101(layers=(3, 4, 23, 3), **options) -> EMANet:
    return EMANet(layers, **options)
