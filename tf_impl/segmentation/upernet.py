"""UPerNet: pyramid pooling on the last map, and a pyramid of all maps joined at the size of the first.

"Unified Perceptual Parsing for Scene Understanding", 2018, arXiv:1807.10221.
Parameter names: mmsegmentation ``decode_heads/uper_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from tf_impl.segmentation.pspnet import pyramid_pooling

__all__ = ["SegmentationCriterion", "SegmentationPostProcess", "UPerHead", "upernet_r18", "upernet_r50", "upernet_r101"]


@keras.saving.register_keras_serializable("diptych")
class UPerHead(DecodeHead):
    """The head (figure 4).

    Args:
        filters: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        pool_scales: bins per axis of each grid of the pyramid pooling.

    Inputs: dict of the maps ``"c2"`` to ``"c5"`` (N, H, W, C).
    Returns: logits (N, H / 4, W / 4, K).
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.psp_modules = pyramid_pooling(filters, pool_scales)
        self.bottleneck = conv_bn(filters, 3, padding=1)
        self.lateral_convs = [conv_bn(filters, 1) for _ in range(3)]
        self.fpn_convs = [conv_bn(filters, 3, padding=1) for _ in range(3)]
        self.fpn_bottleneck = conv_bn(filters, 3, padding=1)

    def call(self, maps, training=False):
        *lower, last = maps.values()
        pooled = [resize_bilinear(module(last, training=training), map_size(last)) for module in self.psp_modules]
        levels = [conv(x, training=training) for conv, x in zip(self.lateral_convs, lower)]
        levels.append(self.bottleneck(tf.concat((last, *pooled), -1), training=training))
        for i in range(len(lower) - 1, -1, -1):
            levels[i] = levels[i] + resize_bilinear(levels[i + 1], map_size(levels[i]))
        levels = [*(conv(x, training=training) for conv, x in zip(self.fpn_convs, levels)), levels[-1]]
        joined = [levels[0], *(resize_bilinear(x, map_size(levels[0])) for x in levels[1:])]
        return self.classify(self.fpn_bottleneck(tf.concat(joined, -1), training=training), training)


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
    head = UPerHead(channels, num_classes, dropout, pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def upernet_r101(depth: int = 101, **options) -> EncoderDecoder:
    return upernet_r50(depth=depth, **options)


def upernet_r18(depth: int = 18, **options) -> EncoderDecoder:
    return upernet_r50(depth=depth, **options)
