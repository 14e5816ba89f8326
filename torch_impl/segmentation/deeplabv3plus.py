"""DeepLabv3+: DeepLabv3 with separable convolutions, and a decoder that reuses an early map.

"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018, arXiv:1802.02611.
Parameter names: mmsegmentation ``decode_heads/sep_aspp_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.conv_module import DepthwiseSeparableConvModule
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from torch_impl.segmentation.deeplabv3 import ASPPHead

__all__ = [
    "DepthwiseSeparableASPPHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "deeplabv3plus_r18_d8",
    "deeplabv3plus_r50_d8",
    "deeplabv3plus_r101_d8",
    "deeplabv3plus_r101_d16_mg124",
]


class DepthwiseSeparableASPPHead(ASPPHead):
    """The pyramid at the size of an early map, joined with it, and two separable convolutions (section 3.1).

    Args:
        in_channels, c1_in_channels: of the map, and of the early map ``"c2"``.
        channels: of the pyramid and of the decoder.
        num_classes, dropout: see :class:`DecodeHead`.
        dilations: see :class:`ASPPHead`.
        c1_channels: of the early map after its 1x1 convolution.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H / 4, W / 4).
    """

    def __init__(
        self,
        in_channels: int,
        c1_in_channels: int,
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
        c1_channels: int = 48,
    ):
        super().__init__(in_channels, channels, num_classes, dropout, dilations, DepthwiseSeparableConvModule)
        self.c1_bottleneck = conv_bn(c1_in_channels, c1_channels, 1)
        self.sep_bottleneck = nn.Sequential(
            DepthwiseSeparableConvModule(channels + c1_channels, channels, 3, padding=1),
            DepthwiseSeparableConvModule(channels, channels, 3, padding=1),
        )

    def forward(self, maps):
        early = self.c1_bottleneck(maps["c2"])
        x = resize_bilinear(self.pyramid(maps), map_size(early))
        return self.classify(self.sep_bottleneck(torch.cat((x, early), 1)))


def deeplabv3plus_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    c1_channels: int = 48,
    aux_channels: int = 256,
    dropout: float = 0.1,
    rates: tuple[int, ...] = (1, 12, 24, 36),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    widths = backbone.channels
    head = DepthwiseSeparableASPPHead(widths["c5"], widths["c2"], channels, num_classes, dropout, rates, c1_channels)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def deeplabv3plus_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return deeplabv3plus_r50_d8(depth=depth, **options)


def deeplabv3plus_r101_d16_mg124(
    depth: int = 101,
    output_stride: int = 16,
    multi_grid: tuple[int, ...] = (1, 2, 4),
    rates: tuple[int, ...] = (1, 6, 12, 18),
    **options,
) -> EncoderDecoder:
    return deeplabv3plus_r50_d8(depth=depth, output_stride=output_stride, multi_grid=multi_grid, rates=rates, **options)


def deeplabv3plus_r18_d8(
    depth: int = 18, channels: int = 128, c1_channels: int = 12, aux_channels: int = 64, **options
) -> EncoderDecoder:
    return deeplabv3plus_r50_d8(
        depth=depth, channels=channels, c1_channels=c1_channels, aux_channels=aux_channels, **options
    )
