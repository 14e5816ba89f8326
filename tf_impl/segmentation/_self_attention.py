"""Attention between two maps, as in ANN and OCRNet.

Parameter names: mmsegmentation ``models/utils/self_attention_block.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.segmentation._encoder_decoder import conv_bn

__all__ = ["SelfAttentionBlock"]


def flat(x):
    """(N, H, W, C) -> (N, HW, C)."""
    return tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1]))


@keras.saving.register_keras_serializable("diptych")
class SelfAttentionBlock(keras.layers.Layer):
    """Every position of one map receives a weighted sum over the positions of another.

    Args:
        inner: channels of keys, queries and values.
        filters: of the result.
        shared: whether keys and queries share one projection.
        key_pool: makes the positions that are summed over, (N, P, C), from a map; all by default.
        num_convs: convolutions of the projections of keys and queries.
        value_norm: whether the projections of values and result have normalisation and ReLU.

    Inputs: the query map (N, H, W, Cq), the key map (N, h, w, Ck).
    Returns: (N, H, W, filters).
    """

    def __init__(
        self,
        inner: int,
        filters: int,
        shared: bool = False,
        key_pool=flat,
        num_convs: int = 1,
        value_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scale, self.key_pool = inner**-0.5, key_pool

        def projection():
            convs = [conv_bn(inner, 1) for _ in range(num_convs)]
            return convs[0] if num_convs == 1 else keras.Sequential(convs)

        self.key_project = projection()
        self.query_project = self.key_project if shared else projection()
        if value_norm:
            self.value_project, self.out_project = conv_bn(inner, 1), conv_bn(filters, 1)
        else:
            self.value_project = Conv2D(inner, 1)
            self.out_project = Conv2D(filters, 1, kernel_initializer="zeros", bias_initializer="zeros")
        self.value_norm = value_norm

    def call(self, query, key, training=False):
        options = {"training": training} if self.value_norm else {}
        queries = flat(self.query_project(query, training=training))  # (N, HW, C)
        keys = self.key_pool(self.key_project(key, training=training))
        values = self.key_pool(self.value_project(key, **options))
        weights = tf.nn.softmax(tf.matmul(queries, keys, transpose_b=True) * self.scale, -1)  # (N, HW, P)
        context = tf.matmul(weights, values)
        shape = (*tf.unstack(tf.shape(query)[:3]), context.shape[-1])
        return self.out_project(tf.reshape(context, shape), **options)
