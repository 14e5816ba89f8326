"""Attention within windows: every window of queries sees itself, the window before it, and the one after it.

The numbers are those of lucidrains/local-attention (MIT). There, queries see the zeros that fill the last window unless
a mask is given; here they never do.

Mirror notes:
- ``torch.export`` treats an axis of length 1 as a constant: PyTorch exports one empty window more.
"""

import keras
import numpy as np
import tensorflow as tf

from .attention import masked_softmax
from .positions import rotate

__all__ = ["RotaryFrequencies", "WindowAttention"]


@keras.saving.register_keras_serializable("diptych")
class RotaryFrequencies(keras.layers.Layer):
    """Sines and cosines of the angles at positions 0, 1, ...: (T, E)."""

    def __init__(self, dim: int, **kwargs):
        super().__init__(**kwargs)
        frequencies = (10000 ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
        self.inv_freq = self.add_weight(
            name="inv_freq",
            shape=(dim // 2,),
            initializer=lambda shape, dtype: tf.cast(frequencies, dtype),
            trainable=False,
            autocast=False,
        )

    def call(self, length: int):
        frequencies = tf.convert_to_tensor(self.inv_freq)
        angles = tf.range(length, dtype=frequencies.dtype)[:, None] * frequencies
        return tf.cast(tf.concat([tf.sin(angles), tf.cos(angles)], -1), self.compute_dtype)


@keras.saving.register_keras_serializable("diptych")
class WindowAttention(keras.layers.Layer):
    """Scaled dot-product attention within windows, with rotary relative positions.

    Args:
        dim: width E of a head.
        window_size: positions of a window.
        causal: whether a query sees no later key; then there is no window after it.
        dropout: rate of the weights.

    Inputs: ``query``, ``key``, ``value`` (N, heads, T, E); ``padding_mask`` (N, T) bool, True = padding, or None.
    Returns: (N, heads, T, E).
    """

    def __init__(self, dim: int, window_size: int = 256, causal: bool = False, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.window_size, self.causal = window_size, causal
        self.rel_pos = RotaryFrequencies(dim)
        self.dropout = keras.layers.Dropout(dropout)

    def windows(self, x, fill=0):
        """(N, heads, T, E) -> (N, heads, W, window, E); positions after the end are filled."""
        # mirror: one empty window
        rest = (self.window_size - tf.shape(x)[2] % self.window_size) % self.window_size
        x = tf.pad(x, [[0, 0], [0, 0], [0, rest], [0, 0]], constant_values=tf.cast(fill, x.dtype))
        return tf.reshape(x, (-1, x.shape[1], tf.shape(x)[2] // self.window_size, self.window_size, x.shape[3]))

    def around(self, x, fill=0):
        """Each window with its neighbours: (N, heads, W, window, E) -> (N, heads, W, 2 or 3 windows, E)."""
        outside = tf.zeros_like(x[:, :, :1]) + tf.cast(fill, x.dtype)
        parts = [tf.concat([outside, x[:, :, :-1]], 2), x]
        if not self.causal:
            parts.append(tf.concat([x[:, :, 1:], outside], 2))
        return tf.concat(parts, 3)

    def call(self, query, key, value, padding_mask=None, training=False):
        length = tf.shape(query)[2]
        query, key, value = self.windows(query), self.around(self.windows(key)), self.around(self.windows(value))
        # the queries have the last positions, as in the reference, even where a window comes after them
        waves = self.rel_pos(length=(2 if self.causal else 3) * self.window_size)
        query, key = rotate(query, waves[-self.window_size :], halves=True), rotate(key, waves, halves=True)
        places = self.windows(tf.range(length)[None, None, :, None], -1)  # (1, 1, W, window, 1)
        of_key = tf.linalg.matrix_transpose(self.around(places, -1))
        masked = of_key < 0
        if self.causal:
            masked = masked | (places < of_key)
        if padding_mask is not None:
            padding = self.around(self.windows(tf.cast(padding_mask, query.dtype)[:, None, :, None], 1), 1)
            masked = masked | (tf.linalg.matrix_transpose(padding) > 0)
        scores = tf.matmul(
            query * query.shape[-1] ** -0.5, key, transpose_b=True
        )  # (N, heads, W, window, 2 or 3 windows)
        y = tf.matmul(self.dropout(masked_softmax(scores, masked), training=training), value)
        return tf.reshape(y, (-1, y.shape[1], tf.shape(y)[2] * self.window_size, y.shape[4]))[:, :, :length]
