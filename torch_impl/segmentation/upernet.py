"""UPerNet: pyramid pooling on the last map, and a pyramid of all maps joined at the size of the first.

"Unified Perceptual Parsing for Scene Understanding", 2018, arXiv:1807.10221.
Parameter names: mmsegmentation ``decode_heads/uper_head.py`` (Apache-2.0).

Mirror notes:
- NCHW here, NHWC in TensorFlow; Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from torch_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from torch_impl.segmentation.pspnet import pyramid_pooling

__all__ = ["SegmentationCriterion", "SegmentationPostProcess", "UPerHead", "upernet_r18", "upernet_r50", "upernet_r101"]


class UPerHead(DecodeHead):
    """The head (figure 4).

    Args:
        in_channels: of the maps ``"c2"`` to ``"c5"``.
        channels: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pool_scales: bins per axis of each grid of the pyramid pooling.

    Inputs: dict of maps (N, C, H, W).
    Returns: logits (N, K, H / 4, W / 4).
    """

    def __init__(
        self,
        in_channels: dict[str, int],
        channels: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
    ):
        super().__init__(channels, num_classes, dropout)
        *lower, last = in_channels.values()
        self.psp_modules = pyramid_pooling(last, channels, pool_scales)
        self.bottleneck = conv_bn(last + len(pool_scales) * channels, channels, 3, padding=1)
        self.lateral_convs = nn.ModuleList(conv_bn(width, channels, 1) for width in lower)
        self.fpn_convs = nn.ModuleList(conv_bn(channels, channels, 3, padding=1) for _ in lower)
        self.fpn_bottleneck = conv_bn((len(lower) + 1) * channels, channels, 3, padding=1)

    def forward(self, maps):
        *lower, last = maps.values()
        pooled = [resize_bilinear(module(last), map_size(last)) for module in self.psp_modules]
        levels = [conv(x) for conv, x in zip(self.lateral_convs, lower)]
        levels.append(self.bottleneck(torch.cat((last, *pooled), 1)))
        for i in range(len(lower) - 1, -1, -1):
            levels[i] = levels[i] + resize_bilinear(levels[i + 1], map_size(levels[i]))
        levels = [*(conv(x) for conv, x in zip(self.fpn_convs, levels)), levels[-1]]
        joined = [levels[0], *(resize_bilinear(x, map_size(levels[0])) for x in levels[1:])]
        return self.classify(self.fpn_bottleneck(torch.cat(joined, 1)))


def upernet_r50(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    pool_scales: tuple[int, ...] = (1, 2, 3, 6),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, output_stride=32, **options)
    head = UPerHead(backbone.channels, channels, num_classes, dropout, pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def upernet_r101(depth: int = 101, **options) -> EncoderDecoder:
    return upernet_r50(depth=depth, **options)


def upernet_r18(depth: int = 18, **options) -> EncoderDecoder:
    return upernet_r50(depth=depth, **options)
