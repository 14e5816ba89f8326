"""EMANet: the map is rebuilt from a few bases, which a few steps of expectation and maximisation find in it.

"Expectation-Maximization Attention Networks for Semantic Segmentation", 2019, arXiv:1907.13426.
Parameter names: mmsegmentation ``decode_heads/ema_head.py`` (Apache-2.0).
What to look at: no gradient goes through the bases and the responsibilities; their start is a moving average.

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "EMAHead",
    "EMAModule",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "emanet_r50_d8",
    "emanet_r101_d8",
]


class EMAModule(nn.Module):
    """The map, rebuilt from its bases (section 3.2).

    Args:
        channels: width C of the map.
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of the bases that a batch found in those that the next one starts from.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, channels: int, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1):
        super().__init__()
        self.num_stages, self.momentum = num_stages, momentum
        bases = torch.randn(1, channels, num_bases) * (2 / num_bases) ** 0.5
        self.register_buffer("bases", normalized(bases))

    def forward(self, x):
        with torch.no_grad():
            places = x.flatten(2)  # (N, C, P)
            bases = self.bases.expand(x.shape[0], -1, -1)
            for _ in range(self.num_stages):
                weights = (places.transpose(1, 2) @ bases).softmax(-1)  # (N, P, K)
                shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
                bases = normalized(places @ shares)
            rebuilt = bases @ weights.transpose(1, 2)
            if self.training:
                found = normalized(bases.mean(0, keepdim=True))
                self.bases.copy_((1 - self.momentum) * self.bases + self.momentum * found)
        return rebuilt.reshape(x.shape)


def normalized(bases):
    """Bases (N, C, K) of length 1; 1e-12 for those of length 0."""
    return bases / bases.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)


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
