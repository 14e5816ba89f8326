"""PSPNet: the map is averaged over grids of several sizes, and each average is upsampled to the map again.

"Pyramid Scene Parsing Network", 2016, arXiv:1612.01105.
Parameter names: mmsegmentation ``decode_heads/psp_head.py`` (Apache-2.0).

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
    "PSPHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "pspnet_r18_d8",
    "pspnet_r50_d8",
    "pspnet_r50_d32",
    "pspnet_r101_d8",
    "pyramid_pooling",
]


def pyramid_pooling(filters: int, pool_scales: tuple[int, ...]) -> list[keras.Sequential]:
    """For every scale s: the means of s x s bins, and a 1x1 convolution."""
    return [keras.Sequential([AdaptiveAveragePooling2D(scale), conv_bn(filters, 1)]) for scale in pool_scales]


@keras.saving.register_keras_serializable("diptych")
class PSPHead(DecodeHead):
    """Pyramid pooling and one convolution (section 3.2).

    Args:
        filters: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pool_scales: bins per axis of each grid.
        in_map: name of the map.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        in_map: str = "c5",
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.in_map = in_map
        self.psp_modules = pyramid_pooling(filters, pool_scales)
        self.bottleneck = conv_bn(filters, 3, padding=1)

    def call(self, maps, training=False):
        x = maps[self.in_map]
        pooled = [resize_bilinear(module(x, training=training), map_size(x)) for module in self.psp_modules]
        return self.classify(self.bottleneck(tf.concat((x, *pooled), -1), training=training), training)


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
    head = PSPHead(channels, num_classes, dropout, pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def pspnet_r50_d32(output_stride: int = 32, **options) -> EncoderDecoder:
    return pspnet_r50_d8(output_stride=output_stride, **options)


def pspnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return pspnet_r50_d8(depth=depth, **options)


def pspnet_r18_d8(depth: int = 18, channels: int = 128, aux_channels: int = 64, **options) -> EncoderDecoder:
    return pspnet_r50_d8(depth=depth, channels=channels, aux_channels=aux_channels, **options)
