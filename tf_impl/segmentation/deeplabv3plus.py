"""DeepLabv3+: DeepLabv3 with separable convolutions, and a decoder that reuses an early map.

"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", 2018, arXiv:1802.02611.
Parameter names: mmsegmentation ``decode_heads/sep_aspp_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import DepthwiseSeparableConvModule
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from tf_impl.segmentation.deeplabv3 import ASPPHead

__all__ = [
    "DepthwiseSeparableASPPHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "deeplabv3plus_r18_d8",
    "deeplabv3plus_r50_d8",
    "deeplabv3plus_r101_d8",
    "deeplabv3plus_r101_d16_mg124",
]


@keras.saving.register_keras_serializable("diptych")
class DepthwiseSeparableASPPHead(ASPPHead):
    """The pyramid at the size of an early map, joined with it, and two separable convolutions (section 3.1).

    Args:
        filters: of the pyramid and of the decoder.
        num_classes, dropout: see :class:`DecodeHead`.
        dilations: see :class:`ASPPHead`.
        c1_filters: of the early map ``"c2"`` after its 1x1 convolution.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H / 4, W / 4, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
        c1_filters: int = 48,
        **kwargs,
    ):
        super().__init__(filters, num_classes, dropout, dilations, DepthwiseSeparableConvModule, **kwargs)
        self.c1_bottleneck = conv_bn(c1_filters, 1)
        self.sep_bottleneck = keras.Sequential(
            [DepthwiseSeparableConvModule(filters, 3, padding=1), DepthwiseSeparableConvModule(filters, 3, padding=1)]
        )

    def call(self, maps, training=False):
        early = self.c1_bottleneck(maps["c2"], training=training)
        x = resize_bilinear(self.pyramid(maps, training), map_size(early))
        return self.classify(self.sep_bottleneck(tf.concat((x, early), -1), training=training), training)


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
    head = DepthwiseSeparableASPPHead(channels, num_classes, dropout, rates, c1_channels)
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
