"""PSPNet: the map is averaged over grids of several sizes, and each average is upsampled to the map again.

"Pyramid Scene Parsing Network", 2016, arXiv:1612.01105.
Parameter names: mmsegmentation ``decode_heads/psp_head.py`` (Apache-2.0).

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
    "PSPHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "pspnet_r18_d8",
    "pspnet_r50_d8",
    "pspnet_r50_d32",
    "pspnet_r101_d8",
    "pyramid_pooling",
]


def pyramid_pooling(in_channels: int, channels: int, pool_scales: tuple[int, ...]) -> nn.ModuleList:
    """For every scale s: the means of s x s bins, and a 1x1 convolution."""
    return nn.ModuleList(
        nn.Sequential(nn.AdaptiveAvgPool2d(scale), conv_bn(in_channels, channels, 1)) for scale in pool_scales
    )


class PSPHead(DecodeHead):
    """Pyramid pooling and one convolution (section 3.2).

    Args:
        in_channels: of the map.
        channels: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pool_scales: bins per axis of each grid.
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
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        in_map: str = "c5",
    ):
        super().__init__(channels, num_classes, dropout)
        self.in_map = in_map
        self.psp_modules = pyramid_pooling(in_channels, channels, pool_scales)
        self.bottleneck = conv_bn(in_channels + len(pool_scales) * channels, channels, 3, padding=1)

    def forward(self, maps):
        x = maps[self.in_map]
        pooled = [resize_bilinear(module(x), map_size(x)) for module in self.psp_modules]
        return self.classify(self.bottleneck(torch.cat((x, *pooled), 1)))


def pspnet_r50_d8(
    depth: int = 50,
    output_stride: int = 8,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    pool_scales: tuple[int, ...] = (1, 2, 3, 6),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, output_stride, **options)
    head = PSPHead(backbone.channels["c5"], channels, num_classes, dropout, pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def pspnet_r50_d32(output_stride: int = 32, **options) -> EncoderDecoder:
    return pspnet_r50_d8(output_stride=output_stride, **options)


def pspnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return pspnet_r50_d8(depth=depth, **options)


def pspnet_r18_d8(depth: int = 18, channels: int = 128, aux_channels: int = 64, **options) -> EncoderDecoder:
    return pspnet_r50_d8(depth=depth, channels=channels, aux_channels=aux_channels, **options)
