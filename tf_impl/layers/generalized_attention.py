"""Generalised attention: appearance, relative position, and learnt biases in place of either, as optional terms.

"An Empirical Study of Spatial Attention Mechanisms in Deep Networks", 2019, arXiv:1904.05873. Parameter names: mmcv
``cnn/bricks/generalized_attention.py`` (Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the matrix products: in a file these
  transposes cancel those of the convolutions.
- Keras infers the width of the map, and makes the layers that depend on it when it sees one.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from .convolution import Conv2D
from .linear import Dense
from .resize import resize_bilinear

__all__ = ["GeneralizedAttention"]

WAVE_LENGTH = 1000  # longest of the position embedding


@keras.saving.register_keras_serializable("diptych")
class GeneralizedAttention(keras.layers.Layer):
    """Attention of every position (query) to every position (key), per head.

    The energy of a pair, with Q and K of appearance and R of the relative position, has up to four terms: Q . K,
    Q . R, appr_bias . K and geom_bias . R. It is not divided by the root of the width.

    The reference, given the second term without the fourth, uses the query with height and width exchanged for the
    vertical part: it fails unless H = W, and computes a different function then. Here the term is the same in all
    types, as in the paper. Given the third term alone and a range, the reference lets all queries see what the first
    one may see; here each has its own range. ``local_constraint_map``, which it stores, is computed from the size of
    the map.

    Args:
        position_embedding_dim: width E of the embedding of a relative position, a multiple of 4; -1 for C.
        position_magnitude: factor of the positions.
        num_heads: heads M, each of C // M channels.
        spatial_range: farthest row and column that a query sees, in units of the query's grid; -1 for all.
        q_stride: only every such row and column is a query; the result is resized bilinearly.
        kv_stride: only every such row and column is a key.
        attention_type: four characters, 0 or 1, that choose the terms in the order above.

    x: (N, H, W, C), the same shape out.
    Raises: ValueError if ``attention_type`` is anything else or chooses nothing.
    """

    def __init__(
        self,
        spatial_range: int = -1,
        num_heads: int = 9,
        position_embedding_dim: int = -1,
        position_magnitude: float = 1,
        kv_stride: int = 2,
        q_stride: int = 1,
        attention_type: str = "1111",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(attention_type) != 4 or not set(attention_type) <= {"0", "1"} or attention_type == "0000":
            raise ValueError(f"attention_type={attention_type!r} must be four characters 0 or 1, not all of them 0")
        self.num_heads, self.spatial_range, self.attention_type = num_heads, spatial_range, attention_type
        self.position_embedding_dim, self.position_magnitude = position_embedding_dim, position_magnitude
        self.kv_stride, self.q_stride = kv_stride, q_stride

    def build(self, input_shape):  # mirror: infers the width
        channels = input_shape[-1]
        self.embedding_dim = self.position_embedding_dim if self.position_embedding_dim > 0 else channels
        self.head_dim = channels // self.num_heads
        width = self.head_dim * self.num_heads
        qk, qr, bk, br = (bit == "1" for bit in self.attention_type)
        bound = (2 * self.head_dim) ** -0.5
        if bk:
            uniform = keras.initializers.RandomUniform(-bound, bound)
            self.appr_bias = self.add_weight(name="appr_bias", shape=(width,), initializer=uniform)
        if br:
            uniform = keras.initializers.RandomUniform(-bound, bound)
            self.geom_bias = self.add_weight(name="geom_bias", shape=(width,), initializer=uniform)
        self.gamma = self.add_weight(name="gamma", shape=(1,), initializer="zeros")
        options = dict(use_bias=False, kernel_initializer="lecun_uniform")
        if qk or qr:
            self.query_conv = Conv2D(width, 1, **options)
        if qk or bk:
            self.key_conv = Conv2D(width, 1, **options)
        self.value_conv = Conv2D(width, 1, **options)
        if qr or br:
            self.appr_geom_fc_x = Dense(width, **options)
            self.appr_geom_fc_y = Dense(width, **options)
        self.proj_conv = Conv2D(channels, 1, kernel_initializer="lecun_uniform", bias_initializer="zeros")

    def call(self, x):
        heads, dim = self.num_heads, self.head_dim
        of_query = x[:, :: self.q_stride, :: self.q_stride]
        of_key = x[:, :: self.kv_stride, :: self.kv_stride]
        (h, w), (hk, wk) = of_query.shape[1:3], of_key.shape[1:3]
        query = None
        if self.attention_type[:2] != "00":
            query = self.split(self.query_conv(of_query))
        energy = 0.0
        if self.attention_type[0] == "1" or self.attention_type[2] == "1":
            key = self.split(self.key_conv(of_key))
            asked = self.asked(query, 0, "appr_bias")
            energy = tf.matmul(asked, key, transpose_a=True)  # (N, M, h w or 1, K)
        if self.attention_type[1] == "1" or self.attention_type[3] == "1":
            asked = self.asked(query, 1, "geom_bias")
            asked = tf.reshape(asked, (-1, heads, dim, *((h, w) if self.attention_type[1] == "1" else (1, 1))))
            along_x = self.relative(self.appr_geom_fc_x, w, wk)  # (M, w, e, wk)
            along_y = self.relative(self.appr_geom_fc_y, h, hk)
            energy_x = tf.matmul(tf.transpose(asked, (0, 1, 4, 3, 2)), along_x)
            energy_x = tf.transpose(energy_x, (0, 1, 3, 2, 4))  # (N, M, h, w, wk)
            energy_y = tf.matmul(tf.transpose(asked, (0, 1, 3, 4, 2)), along_y)  # (N, M, h, w, hk)
            geometry = tf.expand_dims(energy_x, 4) + tf.expand_dims(energy_y, 5)
            energy = energy + tf.reshape(geometry, (-1, heads, h * w, hk * wk))
        if self.spatial_range >= 0:
            energy = energy + tf.constant(self.constraint(h, w, hk, wk), x.dtype)
        elif self.attention_type == "0010":  # all queries are the same
            h = w = 1
        value = self.split(self.value_conv(of_key))
        y = tf.matmul(value, tf.nn.softmax(energy), transpose_b=True)  # (N, M, e, h w)
        y = self.proj_conv(tf.transpose(tf.reshape(y, (-1, heads * dim, h, w)), (0, 2, 3, 1)))
        if self.q_stride > 1 and (h, w) != (1, 1):
            y = resize_bilinear(y, tuple(x.shape[1:3]))
        return tf.convert_to_tensor(self.gamma) * y + x

    def split(self, x):
        """(N, h, w, M e) -> (N, M, e, h w)."""
        _, h, w, _ = x.shape
        # mirror: matrix products
        return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, self.num_heads, self.head_dim, h * w))

    def asked(self, query, term: int, bias: str):
        """Query, bias, or their sum, depending on the type.  (N, M, e, h w) -> (N or 1, M, e, h w or 1)."""
        found = query if self.attention_type[term] == "1" else 0.0
        if self.attention_type[term + 2] == "1":
            found = found + tf.reshape(getattr(self, bias), (1, self.num_heads, self.head_dim, 1))
        return found

    def relative(self, layer, queries: int, keys: int):
        """Embedding of the relative positions on one axis: (M, queries, e, keys)."""
        distance = np.subtract.outer(np.arange(queries) * self.q_stride, np.arange(keys) * self.kv_stride)
        frequency = WAVE_LENGTH ** (4 / self.embedding_dim * np.arange(self.embedding_dim / 4))
        angle = self.position_magnitude * distance[..., None] / frequency
        waves = tf.constant(np.concatenate([np.sin(angle), np.cos(angle)], -1), self.compute_dtype)
        found = layer(waves) / math.sqrt(2)  # (queries, keys, M e)
        found = tf.reshape(found, (queries, keys, self.num_heads, self.head_dim))
        return tf.transpose(found, (2, 0, 3, 1))

    def constraint(self, h: int, w: int, hk: int, wk: int) -> np.ndarray:
        """0 where a query may look at a key, -inf elsewhere: (h w, hk wk)."""
        allowed = []
        for queries, keys in ((h, hk), (w, wk)):
            place, key = np.arange(queries)[:, None], np.arange(keys)
            first = np.maximum((place - self.spatial_range) // self.kv_stride, 0)
            allowed.append((key >= first) & (key <= (place + self.spatial_range + 1) // self.kv_stride))
        rows, columns = allowed
        both = rows[:, None, :, None] & columns[None, :, None, :]
        return np.where(both, 0.0, -np.inf).reshape(h * w, hk * wk)
