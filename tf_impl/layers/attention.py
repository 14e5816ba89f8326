"""Attention: a query's weighted mean of values, by additive, multiplicative, local and multi-head scores.

"Neural Machine Translation by Jointly Learning to Align and Translate", 2014, arXiv:1409.0473 (additive).
"Effective Approaches to Attention-based Neural Machine Translation", 2015, arXiv:1508.04025 (dot product, general,
concatenation, local).
"Attention Is All You Need", 2017, arXiv:1706.03762 (scaled dot product, several heads). Parameter names of the last:
``torch.nn.MultiheadAttention`` (BSD).

A mask is True where a key must not be seen, as in ``torch.nn.MultiheadAttention``; Keras and
``scaled_dot_product_attention`` do the opposite. A query that sees no key gets 0, where PyTorch gives NaN.

Mirror notes:
- PyTorch has fused attention; TensorFlow writes softmax(q k^T) v out.
- PyTorch packs three matrices (3 D, D) into one parameter; TensorFlow keeps this layout.
"""

import keras
import tensorflow as tf

from .linear import SequenceDense

__all__ = [
    "AdditiveAttention",
    "ConcatAttention",
    "DotAttention",
    "GeneralAttention",
    "LocalAttention",
    "MultiheadAttention",
    "ScaledDotAttention",
    "attend",
    "causal_mask",
    "mask_bias",
    "masked_score",
    "masked_softmax",
    "merge_heads",
    "split_heads",
]


def split_heads(x, heads: int):
    """(N, T, D) -> (N, heads, T, D / heads); each head is a run of channels."""
    x = tf.reshape(x, (-1, tf.shape(x)[1], heads, x.shape[-1] // heads))
    return tf.transpose(x, (0, 2, 1, 3))


def merge_heads(x):
    """(N, heads, T, E) -> (N, T, heads E)."""
    return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, tf.shape(x)[2], x.shape[1] * x.shape[3]))


def masked_score(dtype) -> float:
    """Score of a key that must not be seen; finite, so that a row without any key stays finite."""
    return -6e4 if tf.as_dtype(dtype) == tf.float16 else -1e9


def mask_bias(masked, dtype):
    """What is added to the scores: 0 where ``masked`` is False, a large negative number where it is True."""
    return tf.cast(masked, dtype) * masked_score(dtype)


def causal_mask(query, key):
    """True where a key comes after its query; the last two are at one place.  (..., T, E), (..., S, E) -> (T, S)."""
    queries, keys = tf.shape(query)[-2], tf.shape(key)[-2]
    place = tf.range(queries)[:, None] + (keys - queries)
    return tf.range(keys) > place


def masked_softmax(scores, masked=None):
    """Softmax over the last axis of the scores that are not masked: the others get 0, and so does a row without any.

    Args:
        scores: (..., S) float.
        masked: bool, broadcast to the scores; True = must not be seen.
    """
    if masked is None:
        return tf.nn.softmax(scores)
    return tf.nn.softmax(scores + mask_bias(masked, scores.dtype)) * tf.cast(~masked, scores.dtype)


def attend(query, key, value, bias=None, dropout: keras.layers.Dropout | None = None, training: bool = False):
    """softmax(q k^T / sqrt(E) + bias) v.

    Args:
        query, key, value: (N, heads, T, E), (N, heads, S, E), (N, heads, S, F).
        bias: added to the scores, broadcast to (N, heads, T, S); see :func:`mask_bias`.
        dropout: layer for the weights.
        training: whether it drops.

    Returns: (N, heads, T, F).
    """
    # written out
    scores = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
    weights = tf.nn.softmax(scores if bias is None else scores + bias)  # mirror: fused attention
    return tf.matmul(weights if dropout is None else dropout(weights, training=training), value)


@keras.saving.register_keras_serializable("diptych")
class DotAttention(keras.layers.Layer):
    """Attention of one head whose score is q . k (arXiv:1508.04025, equation 8).

    Inputs: ``query`` (N, T, Q), ``key`` (N, S, K), ``value`` (N, S, V), ``key_padding_mask`` (N, S) bool, True =
        padding, or None. Here Q = K.
    Returns: dict: ``"output"`` (N, T, V), ``"weights"`` (N, T, S), which are 0 at padding.
    """

    def scores(self, query, key):
        """(N, T, Q), (N, S, K) -> (N, T, S)."""
        return tf.matmul(query, key, transpose_b=True)

    def call(self, query, key, value, key_padding_mask=None):
        masked = None if key_padding_mask is None else key_padding_mask[:, None]
        weights = masked_softmax(self.scores(query, key), masked)
        return {"output": tf.matmul(weights, value), "weights": weights}


@keras.saving.register_keras_serializable("diptych")
class ScaledDotAttention(DotAttention):
    """The score q . k / sqrt(K) (arXiv:1706.03762, equation 1).  Inputs and returns: :class:`DotAttention`."""

    def scores(self, query, key):
        return super().scores(query * key.shape[-1] ** -0.5, key)


@keras.saving.register_keras_serializable("diptych")
class GeneralAttention(DotAttention):
    """The score q^T W k (arXiv:1508.04025, equation 8).  Inputs and returns: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
    """

    def __init__(self, query_dim: int, key_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.key_proj = SequenceDense(query_dim, use_bias=False)

    def scores(self, query, key):
        return super().scores(query, self.key_proj(key))


@keras.saving.register_keras_serializable("diptych")
class AdditiveAttention(DotAttention):
    """The score v^T tanh(W_q q + W_k k + b) (arXiv:1409.0473, appendix A.1.2).  Otherwise: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
        attention_dim: width A that both are projected to.
        bias: whether b is added.
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int, bias: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.query_proj = SequenceDense(attention_dim, use_bias=bias)
        self.key_proj = SequenceDense(attention_dim, use_bias=False)
        self.score_proj = SequenceDense(1, use_bias=False)

    def scores(self, query, key):
        pairs = self.query_proj(query)[:, :, None] + self.key_proj(key)[:, None]  # (N, T, S, A)
        return self.score_proj(tf.tanh(pairs))[..., 0]


@keras.saving.register_keras_serializable("diptych")
class ConcatAttention(DotAttention):
    """The score v^T tanh(W [q; k]) (arXiv:1508.04025, equation 8).  Inputs and returns: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
        attention_dim: height A of W.
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.query_dim = query_dim
        self.pair_proj = SequenceDense(attention_dim, use_bias=False)
        self.score_proj = SequenceDense(1, use_bias=False)
        self.pair_proj.build((None, query_dim + key_dim))  # its kernel is used without a call

    def scores(self, query, key):
        # W [q; k] is the sum of two products: no pair is ever put together
        weight = tf.convert_to_tensor(self.pair_proj.kernel)
        of_query, of_key = tf.matmul(query, weight[: self.query_dim]), tf.matmul(key, weight[self.query_dim :])
        return self.score_proj(tf.tanh(of_query[:, :, None] + of_key[:, None]))[..., 0]


@keras.saving.register_keras_serializable("diptych")
class LocalAttention(GeneralAttention):
    """Attention to a window of keys around a position p of each query (arXiv:1508.04025, section 3.2).

    Monotonic (local-m): query t looks at p = t. Predictive (local-p): p = S sigmoid(v^T tanh(W q)), with S the number
    of keys that are not padding, and the weights are multiplied by exp(-(s - p)^2 / (2 sigma^2)), sigma = window / 2.

    Args:
        query_dim, key_dim: widths Q and K.
        window: only keys at most this far from p are seen (the paper's D).
        predictive: local-p; otherwise local-m.

    Inputs and returns: :class:`DotAttention`; the weights of local-p do not add up to 1.
    """

    def __init__(self, query_dim: int, key_dim: int, window: int = 10, predictive: bool = True, **kwargs):
        super().__init__(query_dim, key_dim, **kwargs)
        self.window, self.predictive = window, predictive
        if predictive:
            self.position_proj = SequenceDense(query_dim, use_bias=False)
            self.position_score = SequenceDense(1, use_bias=False)

    def centres(self, query, key, key_padding_mask):
        """Position p of every query: (N, T, 1) or (T, 1)."""
        if not self.predictive:
            return tf.cast(tf.range(tf.shape(query)[1])[:, None], query.dtype)
        found = tf.sigmoid(self.position_score(tf.tanh(self.position_proj(query))))
        if key_padding_mask is None:
            return found * tf.cast(tf.shape(key)[1], query.dtype)
        return found * tf.reduce_sum(tf.cast(~key_padding_mask, query.dtype), 1)[:, None, None]

    def call(self, query, key, value, key_padding_mask=None):
        places = tf.cast(tf.range(tf.shape(key)[1]), query.dtype)
        distance = places - self.centres(query, key, key_padding_mask)  # (N, T, S) or (T, S)
        masked = tf.abs(distance) > self.window
        if key_padding_mask is not None:
            masked = masked | key_padding_mask[:, None]
        weights = masked_softmax(self.scores(query, key), masked)
        if self.predictive:
            weights = weights * tf.exp(-tf.square(distance) / (2 * (self.window / 2) ** 2))
        return {"output": tf.matmul(weights, value), "weights": weights}


@keras.saving.register_keras_serializable("diptych")
class MultiheadAttention(keras.layers.Layer):
    """Scaled dot-product attention of several heads with projections (arXiv:1706.03762, section 3.2.2).

    Args:
        embed_dim: width D of the query and of the output.
        num_heads: heads M, each of D / M channels.
        dropout: rate of the weights.
        bias: whether the projections have biases.
        kdim, vdim: widths of key and value; D if None. If either differs from D, the three matrices are separate
            parameters.
        need_weights: whether the weights of every head are returned, too.

    Inputs: ``query`` (N, T, D), ``key`` (N, S, kdim), ``value`` (N, S, vdim); ``key_padding_mask`` (N, S) bool and
        ``attn_mask`` (T, S) bool, or None; True = must not be seen.
    Returns: (N, T, D); with weights a dict: ``"output"`` (N, T, D), ``"weights"`` (N, M, T, S).
    Raises: ValueError if ``embed_dim`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        need_weights: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.embed_dim, self.num_heads, self.need_weights = embed_dim, num_heads, need_weights
        self.dropout = keras.layers.Dropout(dropout)
        kdim, vdim = kdim or embed_dim, vdim or embed_dim
        self.packed = kdim == vdim == embed_dim
        if self.packed:
            self.in_proj_weight = self.matrix("in_proj_weight", 3 * embed_dim, embed_dim)  # mirror: packs three
        else:
            self.q_proj_weight = self.matrix("q_proj_weight", embed_dim, embed_dim)
            self.k_proj_weight = self.matrix("k_proj_weight", embed_dim, kdim)
            self.v_proj_weight = self.matrix("v_proj_weight", embed_dim, vdim)
        self.in_proj_bias = None
        if bias:
            self.in_proj_bias = self.add_weight(name="in_proj_bias", shape=(3 * embed_dim,), initializer="zeros")
        self.out_proj = SequenceDense(embed_dim, use_bias=bias, bias_initializer="zeros")

    def matrix(self, name: str, rows: int, columns: int):
        return self.add_weight(name=name, shape=(rows, columns), initializer="glorot_uniform")

    def project(self, inputs):
        """Query, key and value, split into heads."""
        weights = (
            tf.split(tf.convert_to_tensor(self.in_proj_weight), 3)
            if self.packed
            else [tf.convert_to_tensor(w) for w in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)]
        )
        found = [tf.matmul(x, weight, transpose_b=True) for x, weight in zip(inputs, weights)]  # (out, in)
        if self.in_proj_bias is not None:
            found = [y + bias for y, bias in zip(found, tf.split(tf.convert_to_tensor(self.in_proj_bias), 3))]
        return [split_heads(y, self.num_heads) for y in found]

    def call(self, query, key, value, key_padding_mask=None, attn_mask=None, training=False):
        masked = attn_mask
        if key_padding_mask is not None:
            padding = key_padding_mask[:, None, None]
            masked = padding if masked is None else padding | masked  # (N, 1, T or 1, S)
        q, k, v = self.project((query, key, value))
        if self.need_weights:
            scores = tf.matmul(q * (self.embed_dim // self.num_heads) ** -0.5, k, transpose_b=True)
            weights = masked_softmax(scores, masked)
            y = tf.matmul(self.dropout(weights, training=training), v)
            return {"output": self.out_proj(merge_heads(y)), "weights": weights}
        if masked is None:
            return self.out_proj(merge_heads(attend(q, k, v, dropout=self.dropout, training=training)))
        y = attend(q, k, v, mask_bias(masked, q.dtype), self.dropout, training)
        # a query without any key
        return self.out_proj(merge_heads(y * tf.cast(tf.reduce_any(~masked, -1, keepdims=True), y.dtype)))
