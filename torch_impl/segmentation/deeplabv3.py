"""DeepLabv3: parallel convolutions of several dilations, and the mean of the whole map.

"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587.
Parameter names: mmsegmentation ``decode_heads/aspp_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import (
    DecodeHead,
    EncoderDecoder,
    auxiliary_head,
    conv_bn,
    dilated_resnet,
)

__all__ = [
    "ASPPHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "deeplabv3_r18_d8",
    "deeplabv3_r50_d8",
    "deeplabv3_r101_d8",
    "deeplabv3_r101_d16_mg124",
]


class ASPPHead(DecodeHead):
    """Atrous spatial pyramid pooling (section 3.3).

    Args:
        in_channels: of the map.
        channels: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        dilations: of the parallel convolutions; 1 stands for a 1x1 convolution.
        conv: makes a dilated convolution from (in_channels, channels, kernel size, padding, dilation).
        in_map: name of the map.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
        conv=conv_bn,
        in_map: str = "c5",
    ):
        super().__init__(channels, num_classes, dropout)
        self.in_map = in_map
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(in_channels, channels, 1))
        self.aspp_modules = nn.ModuleList(
            conv_bn(in_channels, channels, 1) if d == 1 else conv(in_channels, channels, 3, padding=d, dilation=d)
            for d in dilations
        )
        self.bottleneck = conv_bn((len(dilations) + 1) * channels, channels, 3, padding=1)

    def pyramid(self, maps):
        """The map of all branches.  (N, C, H, W) -> (N, channels, H, W)."""
        x = maps[self.in_map]
        pooled = resize_bilinear(self.image_pool(x), map_size(x))
        return self.bottleneck(torch.cat((pooled, *(module(x) for module in self.aspp_modules)), 1))

    def forward(self, maps):
        return self.classify(self.pyramid(maps))


def deeplabv3_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    rates: tuple[int, ...] = (1, 12, 24, 36),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = ASPPHead(backbone.channels["c5"], channels, num_classes, dropout, rates)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def deeplabv3_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return deeplabv3_r50_d8(depth=depth, **options)


def deeplabv3_r101_d16_mg124(
    depth: int = 101,
    output_stride: int = 16,
    multi_grid: tuple[int, ...] = (1, 2, 4),
    rates: tuple[int, ...] = (1, 6, 12, 18),
    **options,
) -> EncoderDecoder:
    return deeplabv3_r50_d8(depth=depth, output_stride=output_stride, multi_grid=multi_grid, rates=rates, **options)


def deeplabv3_r18_d8(depth: int = 18, channels: int = 128, aux_channels: int = 64, **options) -> EncoderDecoder:
    return deeplabv3_r50_d8(depth=depth, channels=channels, aux_channels=aux_channels, **options)
