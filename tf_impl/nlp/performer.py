"""Performer: a Transformer whose attention estimates the softmax kernel with random features.

"Rethinking Attention with Performers", 2020, arXiv:2009.14794. Parameter names: lucidrains/performer-pytorch
``performer_pytorch.py`` (MIT).

The random features are a buffer. ``redraw_projections``, called once per training step, counts the steps and draws new
ones when due, from a given generator.

Mirror notes:
- PyTorch copies new features into a buffer; TensorFlow assigns them to a variable.
- TensorFlow has to know the length to split it into ``ff_chunks``; otherwise it runs as a whole.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.activation import gelu
from tf_impl.layers.attention import merge_heads, split_heads
from tf_impl.layers.linear import Embedding, SequenceDense
from tf_impl.layers.linear_attention import favor_attention, orthogonal_projection
from tf_impl.layers.model import TextModel
from tf_impl.layers.names import named_layers
from tf_impl.layers.native import exporting
from tf_impl.layers.normalization import LayerNormalization
from tf_impl.layers.positions import rotate, sinusoids
from tf_impl.layers.reversible import ReversibleSequence
from tf_impl.layers.window_attention import WindowAttention
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "Performer",
    "PerformerLM",
    "performer_lm",
]


@keras.saving.register_keras_serializable("diptych")
class FastAttention(keras.layers.Layer):
    """FAVOR+ with its random features.

    Args:
        dim_heads: width E of a head.
        nb_features: random features R; E ln E if None.
        ortho_scaling: 0 for rows with the lengths of normal ones, 1 for rows of length sqrt(E).
        causal, kernel, mask_keys, eps: of :func:`tf_impl.layers.linear_attention.favor_attention`.
    """

    def __init__(self, dim_heads, nb_features, ortho_scaling, causal, kernel, mask_keys, eps, **kwargs):
        super().__init__(**kwargs)
        self.scaling, self.options = (
            ortho_scaling,
            {"causal": causal, "kernel": kernel, "mask_keys": mask_keys, "eps": eps},
        )
        nb_features = nb_features or int(dim_heads * math.log(dim_heads))
        blocks = -(-nb_features // dim_heads)
        draws = tf.random.normal((blocks, dim_heads, dim_heads)), tf.random.normal((nb_features, dim_heads))
        self.projection_matrix = self.add_weight(
            name="projection_matrix",
            shape=(nb_features, dim_heads),
            initializer=lambda shape, dtype: tf.cast(orthogonal_projection(*draws, ortho_scaling), dtype),
            trainable=False,
        )

    def redraw(self, rng):
        """New features from a ``numpy.random.Generator``."""
        rows, dim = self.projection_matrix.shape
        draws = (rng.standard_normal(shape) for shape in ((-(-rows // dim), dim, dim), (rows, dim)))
        normal, lengths = (tf.constant(x, self.projection_matrix.dtype) for x in draws)
        # mirror: copies new features
        self.projection_matrix.assign(orthogonal_projection(normal, lengths, self.scaling))

    def call(self, query, key, value, padding_mask=None):
        projection = tf.convert_to_tensor(self.projection_matrix)
        return favor_attention(query, key, value, projection, padding_mask, **self.options)


@keras.saving.register_keras_serializable("diptych")
class PerformerAttention(keras.layers.Layer):
    """Attention whose first heads are FAVOR+ and whose last ``local_heads`` attend to windows.

    Inputs: ``x`` (N, T, D); ``waves`` (T, E) of rotary positions, or None; ``padding_mask`` (N, T) bool, True =
        padding, or None; for cross-attention ``context`` (N, S, D) and ``context_mask`` (N, S) bool.
    Returns: (N, T, D).
    """

    def __init__(self, dim, heads, dim_head, local_heads, local_window_size, dropout, qkv_bias, out_bias, **fast):
        super().__init__()
        self.heads, self.local_heads = heads, local_heads
        self.fast_attention = FastAttention(dim_head, **fast)
        if local_heads:
            self.local_attn = WindowAttention(dim_head, local_window_size, fast["causal"], dropout)
        self.to_q = SequenceDense(dim_head * heads, use_bias=qkv_bias)
        self.to_k = SequenceDense(dim_head * heads, use_bias=qkv_bias)
        self.to_v = SequenceDense(dim_head * heads, use_bias=qkv_bias)
        self.to_out = SequenceDense(dim, use_bias=out_bias)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, waves=None, padding_mask=None, context=None, context_mask=None, training=False):
        source, padding = (x, padding_mask) if context is None else (context, context_mask)
        q, k, v = (
            split_heads(layer(of), self.heads)
            for layer, of in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
        )
        split = self.heads - self.local_heads
        found = []
        if split:
            fast_q, fast_k = q[:, :split], k[:, :split]
            if waves is not None and context is None:
                fast_q, fast_k = rotate(fast_q, waves), rotate(fast_k, waves)
            found.append(self.fast_attention(fast_q, fast_k, v[:, :split], padding))
        if self.local_heads:
            found.append(self.local_attn(q[:, split:], k[:, split:], v[:, split:], padding, training=training))
        return self.dropout(self.to_out(merge_heads(tf.concat(found, 1))), training=training)


@keras.saving.register_keras_serializable("diptych", "performer.FeedForward")
class FeedForward(keras.layers.Layer):
    """Two linear layers with a GELU between them, where one half gates the other if ``glu``.  (..., D), kept."""

    def __init__(self, dim: int, mult: int, dropout: float, glu: bool, **kwargs):
        super().__init__(**kwargs)
        self.glu = glu
        self.w1 = SequenceDense(dim * mult * (2 if glu else 1))
        self.dropout = keras.layers.Dropout(dropout)
        self.w2 = SequenceDense(dim)

    def call(self, x, training=False):
        x = self.w1(x)
        if self.glu:
            x, gate = tf.split(x, 2, -1)
            x = gelu(x) * gate
        else:
            x = gelu(x)
        return self.w2(self.dropout(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class Chunk(keras.layers.Layer):
    """A position-wise layer, applied to parts of the sequence to save memory."""

    def __init__(self, chunks: int, fn, **kwargs):
        super().__init__(**kwargs)
        self.chunks, self.fn = chunks, fn

    def call(self, x, training=False):
        if self.chunks == 1 or exporting() or x.shape[1] is None:  # mirror: to know the length
            return self.fn(x, training=training)
        size = -(-x.shape[1] // self.chunks)
        parts = [x[:, i : i + size] for i in range(0, x.shape[1], size)]
        return tf.concat([self.fn(part, training=training) for part in parts], 1)


@keras.saving.register_keras_serializable("diptych")
class PreLayerNorm(keras.layers.Layer):
    """Layer normalisation before a layer."""

    def __init__(self, dim: int, fn, **kwargs):
        super().__init__(**kwargs)
        self.norm = LayerNormalization()
        self.fn = fn

    def call(self, x, given=(), training=False):
        return self.fn(self.norm(x), *given, training=training)


@keras.saving.register_keras_serializable("diptych")
class PreScaleNorm(keras.layers.Layer):
    """Scaling of vectors to one learnt length before a layer (arXiv:1910.05895)."""

    def __init__(self, dim: int, fn, **kwargs):
        super().__init__(**kwargs)
        self.g = self.add_weight(name="g", shape=(1,), initializer="ones")
        self.fn = fn

    def call(self, x, given=(), training=False):
        square = tf.maximum(tf.reduce_sum(tf.square(x), -1, keepdims=True), 1e-10)  # as in the reference
        return self.fn(x / tf.sqrt(square) * tf.convert_to_tensor(self.g), *given, training=training)


@keras.saving.register_keras_serializable("diptych")
class ReZero(keras.layers.Layer):
    """A learnt factor after a layer, close to 0 at first (arXiv:2003.04887)."""

    def __init__(self, dim: int, fn, **kwargs):
        super().__init__(**kwargs)
        self.g = self.add_weight(name="g", shape=(), initializer=keras.initializers.Constant(1e-3))
        self.fn = fn

    def call(self, x, given=(), training=False):
        return self.fn(x, *given, training=training) * tf.convert_to_tensor(self.g)


WRAPPERS = {"layer": PreLayerNorm, "scale": PreScaleNorm, "rezero": ReZero}


@keras.saving.register_keras_serializable("diptych")
class SequentialSequence(keras.layers.Layer):
    """Residual layers, one after the other: attention takes what is ``given`` to its block."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.layers = [list(pair) for pair in layers]

    def call(self, x, given, training=False):
        for (attention, feed_forward), more in zip(self.layers, given):
            x = x + attention(x, more, training=training)
            x = x + feed_forward(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class ReversiblePerformer(ReversibleSequence):
    """The same with two streams, whose sum is the result."""

    def call(self, x, given):
        y1, y2 = super().call(x, x, given)
        return y1 + y2


@keras.saving.register_keras_serializable("diptych")
class ProjectionUpdater(keras.layers.Layer):
    """Counts training steps and draws new random features at intervals."""

    def __init__(self, instance, interval: int | None, **kwargs):
        super().__init__(**kwargs)
        self.calls_since_last_redraw = self.add_weight(
            name="calls_since_last_redraw", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.instance = instance
        self.interval = interval

    def redraw_projections(self, rng):
        if self.interval is not None and self.calls_since_last_redraw >= self.interval:
            for _, layer in named_layers(self.instance):
                if isinstance(layer, FastAttention):
                    layer.redraw(rng)
            self.calls_since_last_redraw.assign(0)
        else:
            self.calls_since_last_redraw.assign_add(1)


@keras.saving.register_keras_serializable("diptych")
class Performer(keras.layers.Layer):
    """The layers of a Performer.

    Args:
        dim, depth, heads, dim_head: width D, layers, heads of attention and their width E.
        local_attn_heads, local_window_size: how many of the heads attend to windows, and their size.
        causal: whether a position sees no later one.
        ff_mult, ff_glu, ff_chunks: inner width of feed-forward divided by D, whether it is gated, in how many parts it
            runs.
        nb_features, ortho_scaling, kernel, mask_keys: of the random features; the reference has ``mask_keys=False``.
        feature_eps: added to each feature, by default as in the reference, where later words of a causal model change
            earlier outputs through it, by some thousandths; with 0 they do not.
        feature_redraw_interval: training steps after which they are redrawn; None for never.
        norm: "layer" or "scale" normalisation before each layer, or "rezero" after it.
        reversible: two streams whose activations are not kept; without dropout and context.
        cross_attend: after each layer one that attends to the context.
        ff_dropout, attn_dropout: rates.
        qkv_bias, attn_out_bias: whether attention's layers have biases.

    Inputs: ``x`` (N, T, D), ``waves``, ``padding_mask``, ``context``, ``context_mask`` as :class:`PerformerAttention`.
    Returns: (N, T, D).
    Raises: ValueError for incompatible options.
    """

    def __init__(
        self,
        dim: int = 512,
        depth: int = 6,
        heads: int = 8,
        dim_head: int = 64,
        local_attn_heads: int = 0,
        local_window_size: int = 256,
        causal: bool = False,
        ff_mult: int = 4,
        ff_glu: bool = False,
        ff_chunks: int = 1,
        nb_features: int | None = None,
        ortho_scaling: int = 0,
        kernel: str = "softmax",
        mask_keys: bool = True,
        feature_eps: float | None = None,
        feature_redraw_interval: int | None = 1000,
        norm: str = "layer",
        reversible: bool = False,
        cross_attend: bool = False,
        ff_dropout: float = 0.0,
        attn_dropout: float = 0.0,
        qkv_bias: bool = True,
        attn_out_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if norm not in WRAPPERS:
            raise ValueError(f"norm={norm!r} must be one of {', '.join(WRAPPERS)}")
        if not 0 <= local_attn_heads <= heads:
            raise ValueError(f"local_attn_heads={local_attn_heads} must be from 0 to heads={heads}")
        if reversible and (cross_attend or ff_dropout or attn_dropout):
            raise ValueError("reversible=True goes neither with cross_attend nor with dropout")
        self.cross_attend = cross_attend
        fast = {
            "nb_features": nb_features,
            "ortho_scaling": ortho_scaling,
            "kernel": kernel,
            "mask_keys": mask_keys,
            "eps": feature_eps,
        }

        def layer(local_heads, causal):
            attention = PerformerAttention(
                dim,
                heads,
                dim_head,
                local_heads,
                local_window_size,
                attn_dropout,
                qkv_bias,
                attn_out_bias,
                causal=causal,
                **fast,
            )
            feed_forward = Chunk(ff_chunks, FeedForward(dim, ff_mult, ff_dropout, ff_glu))
            return WRAPPERS[norm](dim, attention), WRAPPERS[norm](dim, feed_forward)

        layers = []
        for _ in range(depth):
            layers.append(layer(local_attn_heads, causal))
            if cross_attend:
                layers.append(layer(0, False))
        self.net = (ReversiblePerformer if reversible else SequentialSequence)(layers)
        self.proj_updater = ProjectionUpdater(self.net, feature_redraw_interval)
        self.blocks = len(layers)

    def redraw_projections(self, rng) -> None:
        """Count a training step, or draw new random features once ``feature_redraw_interval`` steps were counted.

        Args:
            rng: a ``numpy.random.Generator``.
        """
        self.proj_updater.redraw_projections(rng)

    def call(self, x, waves=None, padding_mask=None, context=None, context_mask=None, training=False):
        given = [(waves, padding_mask)] * self.blocks
        if self.cross_attend:
            given[1::2] = [(None, None, context, context_mask)] * (self.blocks // 2)
        return self.net(x, given, training=training)


@keras.saving.register_keras_serializable("diptych")
class AbsolutePositionalEmbedding(keras.layers.Layer):
    """A learnt vector per position: (T, D)."""

    def __init__(self, dim: int, max_seq_len: int, **kwargs):
        super().__init__(**kwargs)
        self.emb = Embedding(max_seq_len, dim)

    def call(self, length):
        return tf.convert_to_tensor(self.emb.embeddings)[:length]


@keras.saving.register_keras_serializable("diptych")
class FixedPositionalEmbedding(keras.layers.Layer):
    """Sines and cosines, in two halves, of every position: (T, D)."""

    def __init__(self, dim: int, max_seq_len: int, **kwargs):
        super().__init__(**kwargs)
        table = sinusoids(tf.range(max_seq_len, dtype=tf.float64), dim, "marian").numpy().astype(np.float32)
        self.emb = self.add_weight(
            name="emb",
            shape=table.shape,
            initializer=lambda shape, dtype: tf.cast(table, dtype),
            trainable=False,
        )

    def call(self, length):
        return tf.convert_to_tensor(self.emb)[:length]


@keras.saving.register_keras_serializable("diptych")
class PerformerLM(TextModel):
    """A Performer between an embedding of words and scores of words.

    Args:
        num_tokens: words V.
        max_seq_len: longest sequence.
        rotary_position_emb: fixed waves, added to the words, and as rotations of queries and keys of the heads that do
            not attend to windows; otherwise a learnt vector per position.
        tie_embed: whether the output has the matrix of the embedding, without a bias.
        emb_dropout: rate after the embedding.
        options: of :class:`Performer`; attention has no biases unless requested.

    Inputs: ``input_ids`` (N, T) int; ``attention_mask`` (N, T) int, 1 = word, 0 = padding, or None; for
        ``cross_attend`` ``context`` (N, S, D) and ``context_mask`` (N, S) int.
    Returns: logits (N, T, V).
    Raises: ValueError if there are more words than ``max_seq_len``.
    """

    def __init__(
        self,
        num_tokens: int = 20000,
        max_seq_len: int = 2048,
        dim: int = 512,
        dim_head: int = 64,
        rotary_position_emb: bool = True,
        tie_embed: bool = False,
        emb_dropout: float = 0.0,
        **options,
    ):
        super().__init__()
        self.max_seq_len = max_seq_len
        self.token_emb = Embedding(num_tokens, dim)
        positions = FixedPositionalEmbedding if rotary_position_emb else AbsolutePositionalEmbedding
        self.pos_emb = positions(dim, max_seq_len)
        self.layer_pos_emb = FixedPositionalEmbedding(dim_head, max_seq_len) if rotary_position_emb else None
        self.dropout = keras.layers.Dropout(emb_dropout)
        self.performer = Performer(dim, dim_head=dim_head, **{"qkv_bias": False, "attn_out_bias": False, **options})
        self.norm = LayerNormalization()
        self.to_out = None if tie_embed else SequenceDense(num_tokens)

    def call(self, input_ids, attention_mask=None, context=None, context_mask=None, training=False):
        if not exporting() and (input_ids.shape[1] or 0) > self.max_seq_len:
            raise ValueError(f"{input_ids.shape[1]} words are more than max_seq_len={self.max_seq_len}")
        length = tf.shape(input_ids)[1]
        x = self.dropout(self.token_emb(input_ids) + self.pos_emb(length), training=training)
        waves = None if self.layer_pos_emb is None else self.layer_pos_emb(length)
        padding, hidden = (None if mask is None else mask == 0 for mask in (attention_mask, context_mask))
        x = self.norm(self.performer(x, waves, padding, context, hidden, training=training))
        if self.to_out is None:
            return tf.matmul(x, tf.cast(self.token_emb.embeddings, x.dtype), transpose_b=True)
        return self.to_out(x)


def performer_lm(**options):
    return PerformerLM(**{"dim": 512, "depth": 6, "heads": 8, "dim_head": 64, "causal": True, **options})
