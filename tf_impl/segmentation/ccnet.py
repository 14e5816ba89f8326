"""CCNet: every position attends to its row and column; applied twice, to the whole map.

"CCNet: Criss-Cross Attention for Semantic Segmentation", 2018, arXiv:1811.11721.
Parameter names: mmsegmentation ``decode_heads/cc_head.py``, mmcv ``ops/cc_attention.py`` (Apache-2.0).
What to look at: no loop over positions; rows and columns are batches of matrix products.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- A position counts once: a large negative number masks it in its column, because infinities do not export.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.resize import map_size
from tf_impl.layers.scale import Scale
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import EncoderDecoder, FCNHead, auxiliary_head, dilated_resnet

__all__ = [
    "CCHead",
    "CrissCrossAttention",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "ccnet_r50_d8",
    "ccnet_r101_d8",
]


@keras.saving.register_keras_serializable("diptych")
class CrissCrossAttention(keras.layers.Layer):
    """The weighted sum over row and column of every position, added to the map (section 3.2).

    Args:
        filters: width C of the map; queries and keys have an eighth.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.query_conv = Conv2D(filters // 8, 1)
        self.key_conv = Conv2D(filters // 8, 1)
        self.value_conv = Conv2D(filters, 1)
        self.gamma = Scale(0.0)

    def call(self, x):
        height, _ = map_size(x)
        queries, keys, values = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        by_column = (0, 2, 1, 3)  # (N, W, H, C)
        column = tf.matmul(tf.transpose(queries, by_column), tf.transpose(keys, by_column), transpose_b=True)
        own = tf.eye(height, dtype=x.dtype)
        column = column * (1 - own) + x.dtype.min * own  # mirror: counts once
        row = tf.matmul(queries, keys, transpose_b=True)  # (N, H, W, W)
        weights = tf.nn.softmax(tf.concat((tf.transpose(column, by_column), row), -1), -1)  # (N, H, W, H + W)
        of_column = tf.matmul(tf.transpose(weights[..., :height], by_column), tf.transpose(values, by_column))
        of_row = tf.matmul(weights[..., height:], values)  # (N, H, W, C)
        return x + self.gamma(tf.transpose(of_column, by_column) + of_row)


@keras.saving.register_keras_serializable("diptych")
class CCHead(FCNHead):
    """The head of FCN with criss-cross attention, repeated with the same weights.

    Args:
        filters, num_classes, dropout: see :class:`FCNHead`.
        recurrence: how often the attention is applied.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(self, filters: int = 512, num_classes: int = 19, dropout: float = 0.1, recurrence: int = 2, **kwargs):
        super().__init__(filters, num_classes, dropout, **kwargs)
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(filters)

    def between(self, x, training=False):
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x


def ccnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    recurrence: int = 2,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = CCHead(channels, num_classes, dropout, recurrence)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def ccnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return ccnet_r50_d8(depth=depth, **options)
