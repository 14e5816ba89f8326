"""The parts of the Transformer: positions, attention with separate keys and values, the layers of both halves, a stack.

"Attention Is All You Need", 2017, arXiv:1706.03762; see ``transformer.py``.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.attention import attend, merge_heads, split_heads
from tf_impl.layers.initialization import ZeroRow
from tf_impl.layers.linear import Embedding, SequenceDense
from tf_impl.layers.native import exporting
from tf_impl.layers.normalization import LayerNormalization
from tf_impl.layers.positions import STYLES, sinusoids

__all__ = [
    "PAD",
    "DecoderLayer",
    "EncoderLayer",
    "SinusoidalPositions",
    "TransformerBody",
    "TransformerStack",
    "embedding",
]

EPS = 1e-5  # of every layer normalisation
PAD = 1  # the padding word, as in fairseq


def dense(units: int, gain: float = 1.0) -> SequenceDense:
    """A dense layer with a Xavier uniform kernel and zero bias initially."""
    uniform = keras.initializers.VarianceScaling(gain**2, "fan_avg", "uniform")
    return SequenceDense(units, kernel_initializer=uniform, bias_initializer="zeros")


def embedding(vocab_size: int, dim: int) -> Embedding:
    """Rows that start normal with deviation 1 / sqrt(D), except the padding's, which is zero."""
    rows = ZeroRow(keras.initializers.RandomNormal(stddev=dim**-0.5), PAD)
    return Embedding(vocab_size, dim, embeddings_initializer=rows)


@keras.saving.register_keras_serializable("diptych")
class SinusoidalPositions(keras.layers.Layer):
    """Position embedding without learnt parameters.

    "fairseq" counts the words that are not padding from 2 and gives padding zeros; the others count all from 0.
    "marian" stores its table as a frozen parameter, so it is in the checkpoint; the others compute theirs.

    Args:
        dim: width D.
        style: see :func:`tf_impl.layers.positions.sinusoids`.
        positions: rows of the table.

    Inputs: ``ids`` (N, T) int; ``like``, a tensor of the desired precision; ``start`` (N,) int, position of the
        first word, or None for 0.
    Returns: (T, D); in the style of fairseq and with a start (N, T, D).
    Raises: ValueError if there are more words than rows.
    """

    def __init__(self, dim: int, style: str, positions: int, **kwargs):
        super().__init__(**kwargs)
        if style not in STYLES:
            raise ValueError(f"pos={style!r} must be one of {', '.join(STYLES)}")
        self.dim, self.style, self.rows = dim, style, positions if style == "marian" else None
        if style == "marian":
            table = sinusoids(tf.range(positions, dtype=tf.float64), dim, style).numpy().astype(np.float32)
            self.weight = self.add_weight(
                name="weight",
                shape=table.shape,
                initializer=lambda shape, dtype: tf.cast(table, dtype),
                trainable=False,
            )

    def call(self, ids, like, start=None):
        if self.rows is not None and not exporting() and (ids.shape[1] or 0) > self.rows:
            raise ValueError(f"{ids.shape[1]} words are more than positions={self.rows}, the rows of the table")
        places = tf.range(tf.shape(ids, out_type=tf.int64)[1])
        if start is not None:
            places = start[:, None] + places
        if self.style == "marian":
            return tf.gather(tf.convert_to_tensor(self.weight), places)
        if self.style != "fairseq":
            return sinusoids(tf.cast(places, like.dtype), self.dim, self.style)
        words = tf.cast(ids != PAD, like.dtype)
        counted = tf.cumsum(words, 1) - 1 if start is None else tf.cast(places, like.dtype)
        return sinusoids(counted + PAD + 1, self.dim, self.style) * words[..., None]


@keras.saving.register_keras_serializable("diptych")
class TransformerAttention(keras.layers.Layer):
    """Attention of several heads.  query: (N, T, D), keys and values: (N, heads, S, E) -> (N, T, D)."""

    def __init__(self, dim: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.k_proj = dense(dim, 2**-0.5)
        self.v_proj = dense(dim, 2**-0.5)
        self.q_proj = dense(dim, 2**-0.5)
        self.out_proj = dense(dim)
        self.dropout = keras.layers.Dropout(dropout)

    def keys_values(self, x):
        """(N, S, D) -> keys and values, (N, heads, S, E) each."""
        return split_heads(self.k_proj(x), self.heads), split_heads(self.v_proj(x), self.heads)

    def call(self, query, keys, values, bias, training=False):
        q = split_heads(self.q_proj(query), self.heads)
        return self.out_proj(merge_heads(attend(q, keys, values, bias, self.dropout, training)))


@keras.saving.register_keras_serializable("diptych", "transformer_layers.TransformerLayer")
class TransformerLayer(keras.layers.Layer):
    """Base of both kinds of layers: the feed-forward half, and the residual with a norm after or before it."""

    def __init__(self, normalize_before: bool, dropout: float, activation_dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.normalize_before = normalize_before
        self.dropout, self.activation_dropout = keras.layers.Dropout(dropout), keras.layers.Dropout(activation_dropout)

    def before(self, norm, x):
        return norm(x) if self.normalize_before else x

    def after(self, norm, x, y, training):
        x = x + self.dropout(y, training=training)
        return x if self.normalize_before else norm(x)

    def feed_forward(self, x, training):
        y = tf.nn.relu(self.fc1(self.before(self.final_layer_norm, x)))
        y = self.fc2(self.activation_dropout(y, training=training))
        return self.after(self.final_layer_norm, x, y, training)


@keras.saving.register_keras_serializable("diptych")
class EncoderLayer(TransformerLayer):
    """Self-attention and feed-forward network.  x: (N, S, D), bias: (N, 1, 1, S) -> (N, S, D)."""

    def __init__(self, dim, heads, ffn, normalize_before, dropout, attention_dropout, activation_dropout, **kwargs):
        super().__init__(normalize_before, dropout, activation_dropout, **kwargs)
        self.self_attn = TransformerAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = LayerNormalization(epsilon=EPS)
        self.fc1 = dense(ffn)
        self.fc2 = dense(dim)
        self.final_layer_norm = LayerNormalization(epsilon=EPS)

    def call(self, x, bias, training=False):
        y = self.before(self.self_attn_layer_norm, x)
        y = self.self_attn(y, *self.self_attn.keys_values(y), bias, training=training)
        return self.feed_forward(self.after(self.self_attn_layer_norm, x, y, training), training)


@keras.saving.register_keras_serializable("diptych")
class DecoderLayer(TransformerLayer):
    """Self-attention, attention to the encoder, feed-forward network.

    Inputs: ``x`` (N, T, D); ``memory``, the encoder's keys and values (N, heads, S, E); ``self_bias`` and
        ``memory_bias`` of the scores; with a cache ``past``, keys and values (N, heads, M, E), and ``here``
        (N, 1, M, 1) bool, True where those of x (T = 1) are written.
    Returns: (N, T, D), and the keys and values of self-attention.
    """

    def __init__(self, dim, heads, ffn, normalize_before, dropout, attention_dropout, activation_dropout, **kwargs):
        super().__init__(normalize_before, dropout, activation_dropout, **kwargs)
        self.self_attn = TransformerAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = LayerNormalization(epsilon=EPS)
        self.encoder_attn = TransformerAttention(dim, heads, attention_dropout)
        self.encoder_attn_layer_norm = LayerNormalization(epsilon=EPS)
        self.fc1 = dense(ffn)
        self.fc2 = dense(dim)
        self.final_layer_norm = LayerNormalization(epsilon=EPS)

    def call(self, x, memory, self_bias, memory_bias, past=None, here=None, training=False):
        y = self.before(self.self_attn_layer_norm, x)
        present = self.self_attn.keys_values(y)
        if past is not None:
            present = tuple(tf.where(here, new, old) for new, old in zip(present, past))
        y = self.self_attn(y, *present, self_bias, training=training)
        x = self.after(self.self_attn_layer_norm, x, y, training)
        y = self.before(self.encoder_attn_layer_norm, x)
        y = self.encoder_attn(y, *memory, memory_bias, training=training)
        return self.feed_forward(self.after(self.encoder_attn_layer_norm, x, y, training), training), present


@keras.saving.register_keras_serializable("diptych")
class TransformerStack(keras.layers.Layer):
    """Word and position embeddings, and the layers of one half; a norm before each part means one more at the end."""

    def __init__(self, embed_tokens, layers, dim, pos, positions, normalize_before, dropout, **kwargs):
        super().__init__(**kwargs)
        self.scale = dim**0.5
        self.embed_tokens = embed_tokens
        self.embed_positions = SinusoidalPositions(dim, pos, positions)
        self.dropout = keras.layers.Dropout(dropout)
        self.layers = list(layers)
        self.layer_norm = LayerNormalization(epsilon=EPS) if normalize_before else None

    def embed(self, ids, start=None, training=False):
        x = self.embed_tokens(ids) * self.scale
        return self.dropout(x + self.embed_positions(ids, x, start), training=training)

    def normalized(self, x):
        return x if self.layer_norm is None else self.layer_norm(x)


@keras.saving.register_keras_serializable("diptych")
class TransformerBody(keras.layers.Layer):
    """Encoder and decoder, and the embedding if they share it."""

    def __init__(self, shared, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        if shared is not None:
            self.shared = shared
        self.encoder = encoder
        self.decoder = decoder
