"""GPT-1 and GPT-2: Transformer decoders that predict the next token.

GPT-1 normalises after each half of a layer, GPT-2 before it and once more at the end; the rest is the same.
"Improving Language Understanding by Generative Pre-Training", 2018; "Language Models are Unsupervised Multitask
Learners", 2019. Parameter names: Hugging Face transformers ``models/openai/modeling_openai.py`` and
``models/gpt2/modeling_gpt2.py`` (Apache-2.0). How tokens are chosen from the logits: ``gpt_decoding.py``.

Mirror notes:
- PyTorch ties the output layer by giving two modules one parameter; Keras layers share one variable.
- Keras builds lazily; a model is called on one token when it is made, so that a step and its cache find all variables.
- PyTorch checks the length of a text at run time; a traced TensorFlow function only knows it if it is static.
"""

import keras
import tensorflow as tf

from tf_impl.layers.activation import gelu
from tf_impl.layers.attention import attend, mask_bias, merge_heads, split_heads
from tf_impl.layers.linear import Dense, Embedding
from tf_impl.layers.model import TextModel
from tf_impl.layers.normalization import LayerNormalization
from tf_impl.losses.cross_entropy import ClassificationPostProcess, sparse_cross_entropy

__all__ = [
    "ChunkModel",
    "Conv1D",
    "DoubleHeadsModel",
    "GPT1Model",
    "GPT2Model",
    "GPTCriterion",
    "GPTDoubleHeadsCriterion",
    "GPTPostProcess",
    "LMHeadModel",
    "StepModel",
    "gpt1",
    "gpt2",
    "gpt2_large",
    "gpt2_medium",
    "gpt2_xl",
]

EPS = 1e-5  # of every layer normalisation
STD = 0.02  # of the initial matrices and embeddings


@keras.saving.register_keras_serializable("diptych", "gpt.Conv1D")
class Conv1D(keras.layers.Layer):
    """y = x W + b. W is (in, out), as in OpenAI's convolution of width 1, not transposed like a linear layer's.

    Args:
        units: width of the result.
        std: deviation of the initial matrix.

    Inputs: (..., D).  Returns: (..., units).
    """

    def __init__(self, units: int, std: float = STD, **kwargs):
        super().__init__(**kwargs)
        self.units, self.std = units, std

    def build(self, input_shape):
        initial = keras.initializers.RandomNormal(stddev=self.std)
        self.weight = self.add_weight(name="weight", shape=(input_shape[-1], self.units), initializer=initial)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.weight)) + tf.convert_to_tensor(self.bias)


def table(rows: int, hidden: int, std: float = STD) -> Embedding:
    """An embedding that starts normal with the given deviation."""
    return Embedding(rows, hidden, embeddings_initializer=keras.initializers.RandomNormal(stddev=std))


def insert(buffer, new, start):
    """The buffer (N, heads, S, D / heads) with new (N, heads, T, D / heads) from position ``start`` (1,) on."""
    length = tf.cast(tf.shape(new)[2], start.dtype)
    slot = tf.range(buffer.shape[2], dtype=start.dtype) - start
    inside = tf.logical_and(slot >= 0, slot < length)
    return tf.where(inside[:, None], tf.gather(new, tf.clip_by_value(slot, 0, length - 1), axis=2), buffer)


@keras.saving.register_keras_serializable("diptych")
class Attention(keras.layers.Layer):
    """Scaled dot-product attention of several heads over this token and those before it.

    Inputs: x (N, T, D); bias (T, S), added to the scores; cache, if any: ``start`` (1,) int and the keys and values of
        S positions, (N, heads, S, D / heads), of which those before ``start`` are filled.
    Returns: (N, T, D), and keys and values (N, heads, S, D / heads); without a cache S = T.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, std: float, **kwargs):
        super().__init__(**kwargs)
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.dropout = keras.layers.Dropout(dropout)
        self.c_attn = Conv1D(3 * hidden)
        self.c_proj = Conv1D(hidden, std)
        self.resid_dropout = keras.layers.Dropout(dropout)

    def call(self, x, bias, cache=None, training=False):
        q, k, v = (split_heads(part, self.heads) for part in tf.split(self.c_attn(x), 3, -1))
        if cache is not None:
            start, keys, values = cache
            k, v = insert(keys, k, start), insert(values, v, start)
        y = merge_heads(attend(q, k, v, bias, self.dropout, training))
        return self.resid_dropout(self.c_proj(y), training=training), k, v


@keras.saving.register_keras_serializable("diptych")
class MLP(keras.layers.Layer):
    """Two dense layers with GELU's tanh approximation between them.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int, dropout: float, std: float, **kwargs):
        super().__init__(**kwargs)
        self.c_fc = Conv1D(4 * hidden)
        self.c_proj = Conv1D(hidden, std)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, training=False):
        return self.dropout(self.c_proj(gelu(self.c_fc(x), "tanh")), training=training)


@keras.saving.register_keras_serializable("diptych")
class GPT1Block(keras.layers.Layer):
    """Attention and feed-forward network, each with a residual and a normalisation after it.

    Inputs and returns: those of :class:`Attention`.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.attn = Attention(hidden, heads, dropout, STD)
        self.ln_1 = LayerNormalization(epsilon=EPS)
        self.mlp = MLP(hidden, dropout, STD)
        self.ln_2 = LayerNormalization(epsilon=EPS)

    def call(self, x, bias, cache=None, training=False):
        y, keys, values = self.attn(x, bias, cache, training=training)
        x = self.ln_1(x + y)
        return self.ln_2(x + self.mlp(x, training=training)), keys, values


@keras.saving.register_keras_serializable("diptych")
class GPT2Block(keras.layers.Layer):
    """Attention and feed-forward network, each with a normalisation before it and a residual around both.

    Args:
        std: deviation of the matrices that end in the residual sum.

    Inputs and returns: those of :class:`Attention`.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, std: float, **kwargs):
        super().__init__(**kwargs)
        self.ln_1 = LayerNormalization(epsilon=EPS)
        self.attn = Attention(hidden, heads, dropout, std)
        self.ln_2 = LayerNormalization(epsilon=EPS)
        self.mlp = MLP(hidden, dropout, std)

    def call(self, x, bias, cache=None, training=False):
        y, keys, values = self.attn(self.ln_1(x), bias, cache, training=training)
        x = x + y
        return x + self.mlp(self.ln_2(x), training=training), keys, values


def embed(input_ids, words, places, cache):
    """Token and position embeddings added: (N, T) int -> (N, T, D); with a cache the positions continue after it.

    Raises: ValueError if there are more tokens than positions.
    """
    length = input_ids.shape[1]
    if length is not None and length > places.input_dim:  # mirror: checks the length
        raise ValueError(f"input_ids: {length} tokens, and the model has {places.input_dim} positions; cut them")
    start = 0 if cache is None else tf.cast(cache[0], tf.int32)
    return words(input_ids) + places(start + tf.range(tf.shape(input_ids)[1]))


def run(blocks, x, cache, training):
    """All layers, each token seeing itself and those before it: x, and the keys and values of each layer."""
    tokens = tf.range(tf.shape(x)[1])
    if cache is None:
        parts, seen = [None] * len(blocks), tokens
    else:
        start, keys, values = cache
        parts = [(start, keys[:, i], values[:, i]) for i in range(len(blocks))]
        tokens, seen = tf.cast(start, tf.int32) + tokens, tf.range(keys.shape[3])
    bias = mask_bias(seen > tokens[:, None], x.dtype)  # (T, S)
    all_keys, all_values = [], []
    for block, part in zip(blocks, parts, strict=True):
        x, k, v = block(x, bias, part, training=training)
        all_keys.append(k)
        all_values.append(v)
    return x, all_keys, all_values


@keras.saving.register_keras_serializable("diptych")
class GPT1Model(keras.layers.Layer):
    """The decoder of GPT-1.

    Args:
        vocab_size, hidden, layers, heads: sizes (V, D, number of layers and heads).
        positions: longest text.
        dropout: rate after embeddings, attention and dense layers.

    Inputs: ``input_ids`` (N, T) int; cache, if any: ``start`` (1,) int, the number of previous tokens, and their keys
        and values (N, layers, heads, S, D / heads) with room for S tokens.
    Returns: (N, T, D), and lists of each layer's keys and values (N, heads, S, D / heads).
    """

    def __init__(
        self,
        vocab_size: int = 40478,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        positions: int = 512,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.positions, self.rate = positions, dropout
        self.tokens_embed = table(vocab_size, hidden)
        self.positions_embed = table(positions, hidden)
        self.drop = keras.layers.Dropout(dropout)
        self.h = [GPT1Block(hidden, heads, dropout) for _ in range(layers)]

    @property
    def words(self):
        return self.tokens_embed

    def call(self, input_ids, cache=None, training=False):
        x = self.drop(embed(input_ids, self.tokens_embed, self.positions_embed, cache), training=training)
        return run(self.h, x, cache, training)


@keras.saving.register_keras_serializable("diptych")
class GPT2Model(keras.layers.Layer):
    """The decoder of GPT-2.

    Args:
        vocab_size, hidden, layers, heads: sizes (V, D, number of layers and heads).
        positions: longest text.
        dropout: rate after embeddings, attention and dense layers.

    Inputs and returns: those of :class:`GPT1Model`.
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        positions: int = 1024,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.positions, self.rate = positions, dropout
        std = STD * (2 * layers) ** -0.5  # two matrices of every layer add to the residual sum
        self.wte = table(vocab_size, hidden)
        self.wpe = table(positions, hidden, 0.01)
        self.drop = keras.layers.Dropout(dropout)
        self.h = [GPT2Block(hidden, heads, dropout, std) for _ in range(layers)]
        self.ln_f = LayerNormalization(epsilon=EPS)

    @property
    def words(self):
        return self.wte

    def call(self, input_ids, cache=None, training=False):
        x = self.drop(embed(input_ids, self.wte, self.wpe, cache), training=training)
        x, keys, values = run(self.h, x, cache, training)
        return self.ln_f(x), keys, values


@keras.saving.register_keras_serializable("diptych")
class TiedHead(keras.layers.Layer):
    """y = x E^T with a word embedding E.  (..., D) -> (..., V)."""

    def __init__(self, embedding: Embedding, **kwargs):
        super().__init__(**kwargs)
        self.weight = embedding.embeddings

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.weight), transpose_b=True)


@keras.saving.register_keras_serializable("diptych")
class LMHeadModel(TextModel):
    """A decoder whose word embedding is also its output layer.

    Args:
        transformer: a :class:`GPT1Model` or :class:`GPT2Model`.

    Inputs: ``input_ids`` (N, T) int.
    Returns: logits (N, T, V); those of a token score the next one.
    """

    def __init__(self, transformer, **kwargs):
        super().__init__(**kwargs)
        self.transformer = transformer
        self.lm_head = TiedHead(transformer.words)  # mirror: ties the output
        transformer(tf.zeros((1, 1), tf.int64))  # mirror: builds lazily

    def call(self, input_ids, training=False):
        return self.lm_head(self.transformer(input_ids, training=training)[0])


@keras.saving.register_keras_serializable("diptych")
class StepModel(LMHeadModel):
    """The same with a cache of fixed size, for one token at a time: previous tokens are not computed again.

    Inputs: ``input_ids`` (N, T) int, the next T tokens; ``length`` (1,) int, how many came before; ``past_keys``
        and ``past_values`` (N, layers, heads, S, D / heads), theirs; what comes after ``length`` is ignored.
    Returns: dict: ``"logits"`` (N, V) after the last token; ``"keys"`` and ``"values"`` with the new tokens' added.
    """

    def call(self, input_ids, length, past_keys, past_values, training=False):
        x, keys, values = self.transformer(input_ids, (length, past_keys, past_values), training=training)
        return {"logits": self.lm_head(x[:, -1]), "keys": tf.stack(keys, 1), "values": tf.stack(values, 1)}


@keras.saving.register_keras_serializable("diptych")
class ChunkModel(StepModel):
    """The same with the logits after every token: to score a text, or a draft by another model.

    Inputs: those of :class:`StepModel`.
    Returns: dict: ``"logits"`` (N, T, V), ``"keys"``, ``"values"``.
    """

    def call(self, input_ids, length, past_keys, past_values, training=False):
        x, keys, values = self.transformer(input_ids, (length, past_keys, past_values), training=training)
        return {"logits": self.lm_head(x), "keys": tf.stack(keys, 1), "values": tf.stack(values, 1)}


@keras.saving.register_keras_serializable("diptych")
class ChoiceHead(keras.layers.Layer):
    """A score from one token of a text.  x: (N, T, D), token: (N,) int -> (N,)."""

    def __init__(self, dropout: float, **kwargs):
        super().__init__(**kwargs)
        normal = keras.initializers.RandomNormal(stddev=STD)
        self.summary = Dense(1, kernel_initializer=normal, bias_initializer="zeros")
        self.first_dropout = keras.layers.Dropout(dropout)

    def call(self, x, token, training=False):
        chosen = tf.gather(x, token, batch_dims=1)
        return self.summary(self.first_dropout(chosen, training=training))[:, 0]


@keras.saving.register_keras_serializable("diptych")
class DoubleHeadsModel(LMHeadModel):
    """A decoder that scores several continuations of a text, besides predicting their tokens.

    Args:
        transformer: see :class:`LMHeadModel`; its dropout is also the one before the score.

    Inputs: ``input_ids`` (N, choices, T) int; ``mc_token_ids`` (N, choices) int, where the token ``_classify_`` is.
    Returns: dict: ``"logits"`` (N, choices, T, V), ``"mc_logits"`` (N, choices).
    """

    def __init__(self, transformer, **kwargs):
        super().__init__(transformer, **kwargs)
        self.multiple_choice_head = ChoiceHead(transformer.rate)

    def call(self, input_ids, mc_token_ids, training=False):
        choices, length = input_ids.shape[1], tf.shape(input_ids)[2]
        x = self.transformer(tf.reshape(input_ids, (-1, length)), training=training)[0]
        scores = self.multiple_choice_head(x, tf.reshape(mc_token_ids, (-1,)), training=training)
        logits = self.lm_head(x)
        return {
            "logits": tf.reshape(logits, (-1, choices, length, logits.shape[-1])),
            "mc_logits": tf.reshape(scores, (-1, choices)),
        }


def next_token_loss(logits, labels):
    """Mean cross-entropy of every token except the first, predicted from those before it; -100 does not count."""
    return sparse_cross_entropy(logits[..., :-1, :], labels[..., 1:])


@keras.saving.register_keras_serializable("diptych")
class GPTCriterion(keras.layers.Layer):
    """Cross-entropy of the next token.

    Inputs: ``outputs`` the logits (N, T, V); ``targets["labels"]`` (N, T) int, the tokens themselves; -100 does not
        count.
    Returns: dict of scalars: ``"lm"``, ``"total"``.
    """

    def call(self, outputs, targets):
        loss = next_token_loss(outputs, targets["labels"])
        return {"lm": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class GPTDoubleHeadsCriterion(keras.layers.Layer):
    """Cross-entropy of the right continuation, plus a share of that of the next token (GPT-1, equation 5).

    Args:
        lm_coef: the share.

    Inputs: ``outputs`` of :class:`DoubleHeadsModel`; ``targets``: ``"mc_labels"`` (N,) int, the right continuation;
        ``"labels"`` (N, choices, T) int, the tokens themselves; -100 does not count.
    Returns: dict of scalars: ``"mc"``, ``"lm"``, ``"total"``.
    """

    def __init__(self, lm_coef: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.lm_coef = lm_coef

    def call(self, outputs, targets):
        choice = sparse_cross_entropy(outputs["mc_logits"], targets["mc_labels"])
        lm = next_token_loss(outputs["logits"], targets["labels"])
        return {"mc": choice, "lm": lm, "total": choice + self.lm_coef * lm}


@keras.saving.register_keras_serializable("diptych")
class GPTPostProcess(ClassificationPostProcess):
    """The most probable tokens after a text.

    Args:
        k: how many.

    Inputs: the logits (N, T, V).
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64, the tokens.
    """

    def call(self, outputs):
        return super().call(outputs[:, -1])


HEADS = {"lm": LMHeadModel, "step": StepModel, "chunk": ChunkModel, "choice": DoubleHeadsModel}


def with_head(head: str, transformer):
    """Put a head on a decoder."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {sorted(HEADS)}")
    return HEADS[head](transformer)


def gpt1(head: str = "lm", **options):
    return with_head(head, GPT1Model(**{"hidden": 768, "layers": 12, "heads": 12, **options}))


def gpt2(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 768, "layers": 12, "heads": 12, **options}))


def gpt2_medium(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1024, "layers": 24, "heads": 16, **options}))


def gpt2_large(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1280, "layers": 36, "heads": 20, **options}))


def gpt2_xl(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1600, "layers": 48, "heads": 25, **options}))
