"""ANN: non-local attention whose keys are few: the means of a pyramid of grids.

"Asymmetric Non-local Neural Networks for Semantic Segmentation", 2019, arXiv:1908.07678.
Parameter names: mmsegmentation ``decode_heads/ann_head.py`` (Apache-2.0).
What to look at: the second block has one projection for keys and queries, stored under both names.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.pooling import adaptive_avg_pool2d
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet
from tf_impl.segmentation._self_attention import SelfAttentionBlock, flat

__all__ = [
    "AFNB",
    "APNB",
    "ANNHead",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "ann_r50_d8",
    "ann_r101_d8",
    "pyramid_places",
]


def pyramid_places(x, scales: tuple[int, ...]):
    """The means of s x s bins for every scale s, concatenated.  (N, H, W, C) -> (N, sum of s * s, C)."""
    return tf.concat([flat(adaptive_avg_pool2d(x, scale)) for scale in scales], 1)


@keras.saving.register_keras_serializable("diptych")
class AFNB(keras.layers.Layer):
    """The last map attends to an earlier one, and both are fused (section 3.3).

    Args:
        filters: of the last map.
        inner: channels of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    Inputs: the earlier map, the last map (N, H, W, C).
    Returns: (N, H, W, filters).
    """

    def __init__(self, filters: int, inner: int, key_pool_scales: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        pool = functools.partial(pyramid_places, scales=key_pool_scales)
        self.stages = [SelfAttentionBlock(inner, filters, key_pool=pool)]
        self.bottleneck = conv_bn(filters, 1, activation=None)

    def call(self, low, high, training=False):
        context = self.stages[0](high, low, training=training)
        return self.bottleneck(tf.concat((context, high), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class APNB(keras.layers.Layer):
    """A map attends to itself (section 3.2).

    Args:
        filters: of the map and of the result.
        inner: channels of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, filters: int, inner: int, key_pool_scales: tuple[int, ...], **kwargs):
        super().__init__(**kwargs)
        pool = functools.partial(pyramid_places, scales=key_pool_scales)
        self.stages = [SelfAttentionBlock(inner, filters, shared=True, key_pool=pool)]
        self.bottleneck = conv_bn(filters, 1)

    def call(self, x, training=False):
        context = self.stages[0](x, x, training=training)
        return self.bottleneck(tf.concat((context, x), -1), training=training)


@keras.saving.register_keras_serializable("diptych")
class ANNHead(DecodeHead):
    """Fusion with an earlier map, a convolution, and attention of the result to itself (section 3.4).

    Args:
        in_channels: of the map ``"c5"``.
        filters: of the convolution.
        num_classes, dropout: see :class:`DecodeHead`; dropout also follows the fusion.
        project_filters: of keys, queries and values.
        key_pool_scales: grids of the pyramid.

    Inputs: dict of maps (N, H, W, C); the earlier one is ``"c4"``.
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        in_channels: int,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        project_filters: int = 256,
        key_pool_scales: tuple[int, ...] = (1, 3, 6, 8),
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.fusion = AFNB(in_channels, project_filters, key_pool_scales)
        self.bottleneck = conv_bn(filters, 3, padding=1)
        self.context = APNB(filters, project_filters, key_pool_scales)

    def call(self, maps, training=False):
        x = self.dropout(self.fusion(maps["c4"], maps["c5"], training=training), training=training)
        x = self.context(self.bottleneck(x, training=training), training=training)
        return self.classify(x, training)


def ann_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    project_channels: int = 256,
    key_pool_scales: tuple[int, ...] = (1, 3, 6, 8),
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = ANNHead(backbone.channels["c5"], channels, num_classes, dropout, project_channels, key_pool_scales)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def ann_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return ann_r50_d8(depth=depth, **options)
