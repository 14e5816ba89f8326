"""DeepLabv3: parallel convolutions of several dilations, and the mean of the whole map.

"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587.
Parameter names: mmsegmentation ``decode_heads/aspp_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.pooling import AdaptiveAveragePooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import (
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


@keras.saving.register_keras_serializable("diptych")
class ASPPHead(DecodeHead):
    """Atrous spatial pyramid pooling (section 3.3).

    Args:
        filters: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        dilations: of the parallel convolutions; 1 stands for a 1x1 convolution.
        conv: makes a dilated convolution from (filters, kernel size, padding, dilation rate).
        in_map: name of the map.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
        conv=conv_bn,
        in_map: str = "c5",
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.in_map = in_map
        self.image_pool = keras.Sequential([AdaptiveAveragePooling2D(1), conv_bn(filters, 1)])
        self.aspp_modules = [
            conv_bn(filters, 1) if d == 1 else conv(filters, 3, padding=d, dilation_rate=d) for d in dilations
        ]
        self.bottleneck = conv_bn(filters, 3, padding=1)

    def pyramid(self, maps, training=False):
        """The map of all branches.  (N, H, W, C) -> (N, H, W, filters)."""
        x = maps[self.in_map]
        pooled = resize_bilinear(self.image_pool(x, training=training), map_size(x))
        branches = (module(x, training=training) for module in self.aspp_modules)
        return self.bottleneck(tf.concat((pooled, *branches), -1), training=training)

    def call(self, maps, training=False):
        return self.classify(self.pyramid(maps, training), training)


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
    head = ASPPHead(channels, num_classes, dropout, rates)
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
