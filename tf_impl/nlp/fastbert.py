"""FastBERT: a BERT with a classifier after every layer; an easy text exits at the first one that is certain.

"FastBERT: a Self-distilling BERT with Adaptive Inference Time", 2020, arXiv:2004.02178. Parameter names:
autoliuweijie/FastBERT ``run_fastbert.py`` and its UER layers. First the backbone and the last classifier are trained
on labels; then the other classifiers learn its answers, without labels.

Mirror notes:
- PyTorch freezes what a phase does not train; TensorFlow's tape watches what it trains.
"""

import math

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.layers.activation import gelu
from tf_impl.layers.attention import attend, merge_heads, split_heads
from tf_impl.layers.model import TokenModel
from tf_impl.layers.normalization import StdLayerNorm
from tf_impl.layers.top_k import argmax
from tf_impl.losses.cross_entropy import cross_entropy
from tf_impl.nlp.bert import dense, embedding
from tf_impl.nlp.bert_adam import BertAdam

__all__ = [
    "FastBert",
    "FastBertCriterion",
    "FastBertPostProcess",
    "FastBertTrainer",
    "adaptive",
    "fastbert_base",
    "uncertainty",
]

MASKED = -10000.0  # score of a key that must not be seen, as in the reference
SEGMENTS = 3  # padding, first and second text
UNCLIPPED = 1e9  # a gradient norm that is never reached
POOLINGS = ("first", "mean", "max", "last")


@keras.saving.register_keras_serializable("diptych")
class MultiHeadedAttention(keras.layers.Layer):
    """Scaled dot-product attention of several heads.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.linear_layers = [dense(hidden) for _ in range(3)]  # query, key, value
        self.dropout = keras.layers.Dropout(dropout)
        self.final_linear = dense(hidden)

    def call(self, x, bias, training=False):
        q, k, v = (split_heads(layer(x), self.heads) for layer in self.linear_layers)
        return self.final_linear(merge_heads(attend(q, k, v, bias, self.dropout, training)))


@keras.saving.register_keras_serializable("diptych", "fastbert.FeedForward")
class FeedForward(keras.layers.Layer):
    """Two dense layers with GELU between them.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int, intermediate: int, **kwargs):
        super().__init__(**kwargs)
        self.linear_1 = dense(intermediate)
        self.linear_2 = dense(hidden)

    def call(self, x):
        return self.linear_2(gelu(self.linear_1(x)))


@keras.saving.register_keras_serializable("diptych", "fastbert.TransformerLayer")
class TransformerLayer(keras.layers.Layer):
    """Attention and feed-forward network, each with a residual and a normalisation after it."""

    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.self_attn = MultiHeadedAttention(hidden, heads, dropout)
        self.dropout_1 = keras.layers.Dropout(dropout)
        self.layer_norm_1 = StdLayerNorm()
        self.feed_forward = FeedForward(hidden, intermediate)
        self.dropout_2 = keras.layers.Dropout(dropout)
        self.layer_norm_2 = StdLayerNorm()

    def call(self, x, bias, training=False):
        x = self.layer_norm_1(self.dropout_1(self.self_attn(x, bias, training=training), training=training) + x)
        return self.layer_norm_2(self.dropout_2(self.feed_forward(x), training=training) + x)


@keras.saving.register_keras_serializable("diptych", "fastbert.Embedding")
class Embedding(keras.layers.Layer):
    """Sum of word, position and segment embeddings, normalised.  (N, T) int -> (N, T, D).

    Raises: ValueError if there are more tokens than positions.
    """

    def __init__(self, vocab_size: int, hidden: int, positions: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.word_embedding = embedding(vocab_size, hidden)
        self.position_embedding = embedding(positions, hidden)
        self.segment_embedding = embedding(SEGMENTS, hidden)
        self.layer_norm = StdLayerNorm()
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, input_ids, segment_ids, training=False):
        length, positions = input_ids.shape[1], self.position_embedding.input_dim
        if length is not None and length > positions:  # unknown in a graph for any length
            raise ValueError(f"input_ids: {length} tokens, and the model has {positions} positions; cut them")
        x = self.word_embedding(input_ids) + self.segment_embedding(segment_ids)
        places = tf.convert_to_tensor(self.position_embedding.embeddings)[: tf.shape(input_ids)[1]]
        return self.dropout(self.layer_norm(x + places), training=training)


@keras.saving.register_keras_serializable("diptych")
class Encoder(keras.layers.Layer):
    """Holds the layers; the model runs them one after the other."""

    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.transformer = [TransformerLayer(hidden, heads, intermediate, dropout) for _ in range(layers)]


@keras.saving.register_keras_serializable("diptych")
class Classifier(keras.layers.Layer):
    """Narrow self-attention, one vector of all tokens, two dense layers.  (N, T, D) -> logits (N, K).

    Args:
        pooling: "first" and "last" take that token, "mean" and "max" all of them, the padding included.
    """

    def __init__(self, hidden: int, width: int, heads: int, num_classes: int, pooling: str, dropout: float, **kwargs):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} must be one of {POOLINGS}")
        self.pooling = pooling
        self.output_layer_0 = dense(width)
        self.self_atten = MultiHeadedAttention(width, heads, dropout)
        self.output_layer_1 = dense(width)
        self.output_layer_2 = dense(num_classes)

    def pool(self, x):
        if self.pooling == "mean":
            return tf.reduce_mean(x, 1)  # the reference's runs over the features, which does not fit the next layer
        if self.pooling == "max":
            return tf.reduce_max(x, 1)
        return x[:, -1 if self.pooling == "last" else 0]

    def call(self, x, bias, training=False):
        x = self.self_atten(tf.tanh(self.output_layer_0(x)), bias, training=training)
        return self.output_layer_2(tf.tanh(self.output_layer_1(self.pool(x))))


@keras.saving.register_keras_serializable("diptych")
class FastBert(TokenModel):
    """Embeddings, layers, and a classifier after each.

    The classifiers before the last see the backbone as a constant: their losses do not train it.

    Args:
        vocab_size, hidden, layers, heads, intermediate: sizes (V, D, number of layers L and heads, F).
        positions: longest sequence.
        classifier_hidden, classifier_heads: width and heads of the classifiers.
        num_classes: classes K.
        pooling: "first", "mean", "max" or "last", see :class:`Classifier`.
        dropout: rate after embeddings, attention and dense layers.

    Inputs: ``input_ids`` (N, T) int; ``segment_ids`` (N, T) int, 0 = padding, 1 = first text, 2 = second text.
    Returns: logits (N, L, K) of all classifiers.
    """

    def __init__(
        self,
        vocab_size: int = 21128,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        positions: int = 512,
        classifier_hidden: int = 128,
        classifier_heads: int = 2,
        num_classes: int = 2,
        pooling: str = "first",
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding = Embedding(vocab_size, hidden, positions, dropout)
        self.encoder = Encoder(layers, hidden, heads, intermediate, dropout)
        self.classifiers = [
            Classifier(hidden, classifier_hidden, classifier_heads, num_classes, pooling, dropout)
            for _ in range(layers)
        ]

    def start(self, input_ids, segment_ids, training=False):
        """The embeddings, and the bias of the keys' scores."""
        x = self.embedding(input_ids, segment_ids, training=training)
        return x, tf.cast(segment_ids[:, None, None] == 0, x.dtype) * MASKED

    def call(self, input_ids, segment_ids, training=False):
        x, bias = self.start(input_ids, segment_ids, training)
        logits = []
        for layer, classifier in zip(self.encoder.transformer, self.classifiers, strict=True):
            x = layer(x, bias, training=training)
            last = classifier is self.classifiers[-1]
            logits.append(classifier(x if last else tf.stop_gradient(x), bias, training=training))
        return tf.stack(logits, 1)


@keras.saving.register_keras_serializable("diptych")
class FastBertCriterion(keras.layers.Layer):
    """The losses of both phases; they share no parameter.

    Inputs: ``outputs`` of :class:`FastBert`; ``targets["labels"]`` (N,) int, -100 where there is no label.
    Returns: dict of scalars: ``"finetune"``, the cross-entropy of the last classifier (section 3.2.2); ``"distill"``,
        the divergence of every other classifier's answer from the last one's, which is a constant (equations 6
        and 7); their sum ``"total"``.
    """

    def call(self, outputs, targets):
        finetune = cross_entropy(outputs[:, -1], targets["labels"])
        teacher = tf.nn.log_softmax(tf.stop_gradient(outputs[:, -1:]))
        students = tf.nn.log_softmax(outputs[:, :-1])
        distill = tf.reduce_mean(tf.reduce_sum(tf.exp(teacher) * (teacher - students), (1, 2)))
        return {"finetune": finetune, "distill": distill, "total": finetune + distill}


def uncertainty(logits):
    """Entropy of an answer relative to the largest possible: (..., K) -> (...), in [0, 1] (equation 3)."""
    log_p = tf.nn.log_softmax(logits)
    entropy = -tf.reduce_sum(tf.exp(log_p) * log_p, -1)
    return tf.minimum(entropy / math.log(logits.shape[-1]), 1)  # only rounding exceeds it


@keras.saving.register_keras_serializable("diptych")
class FastBertPostProcess(keras.layers.Layer):
    """The answer of the first classifier that is certain enough, after all have been computed.

    Args:
        speed: largest uncertainty at which a text exits, in [0, 1]; at the last classifier it always does.

    Inputs: ``outputs`` of :class:`FastBert`.
    Returns: dict: ``"classes"`` (N,) int64; ``"logits"`` (N, K); ``"uncertainty"`` (N,); ``"layers"`` (N,) int64, how
        many layers the answer needed.
    Raises: ValueError if ``speed`` is not in [0, 1].
    """

    def __init__(self, speed: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= speed <= 1:
            raise ValueError(f"speed={speed} must be 0 to 1")
        self.speed = speed

    def call(self, outputs):
        doubt = uncertainty(outputs)
        sure = doubt[:, :-1] <= self.speed
        first = argmax(tf.pad(tf.cast(sure, doubt.dtype), [[0, 0], [0, 1]], constant_values=1))
        logits = tf.gather(outputs, first, batch_dims=1)
        return {
            "classes": argmax(logits),
            "logits": logits,
            "uncertainty": tf.gather(doubt, first, batch_dims=1),
            "layers": first + 1,
        }


def adaptive(model, input_ids, segment_ids, speed: float = 0.5) -> dict:
    """The same answers, layer by layer: a text that has exited is not computed further.

    Args:
        model: a :class:`FastBert`.
        input_ids, segment_ids: its inputs.
        speed: see :class:`FastBertPostProcess`.

    Returns:
        What :class:`FastBertPostProcess` returns; ``layers.sum() / (N L)`` is the share of the layers that was
        computed.
    """
    x, bias = model.start(input_ids, segment_ids)
    left = tf.range(len(x), dtype=tf.int64)  # texts that have not exited
    parts = []
    for depth, (layer, classifier) in enumerate(zip(model.encoder.transformer, model.classifiers, strict=True), 1):
        x = layer(x, bias)
        logits = classifier(x, bias)
        doubt = uncertainty(logits)
        leaves = doubt <= speed if depth < len(model.classifiers) else tf.ones_like(doubt, tf.bool)
        gone = left[leaves]
        parts.append((gone, logits[leaves], doubt[leaves], tf.fill(tf.shape(gone), tf.constant(depth, tf.int64))))
        left, x, bias = left[~leaves], x[~leaves], bias[~leaves]
        if not len(left):
            break
    order, logits, doubt, layers = (tf.concat(values, 0) for values in zip(*parts, strict=True))
    back = tf.argsort(order)
    return {
        "classes": argmax(tf.gather(logits, back)),
        "logits": tf.gather(logits, back),
        "uncertainty": tf.gather(doubt, back),
        "layers": tf.gather(layers, back),
    }


class FastBertTrainer:
    """Training steps of one phase.

    Args:
        model: a :class:`FastBert`.
        criterion: its losses.
        phase: "finetune" trains the backbone and the last classifier on labels, "distill" the other classifiers on
            the last one's answers.
        learning_rate: of every step; 2e-5 or, in the second phase, 2e-4 by default (the reference: with warm-up, for 3
            and 10 epochs).
    """

    def __init__(self, model, criterion=None, phase: str = "finetune", learning_rate: float | None = None):
        if phase not in ("finetune", "distill"):
            raise ValueError(f"phase={phase!r} must be 'finetune' or 'distill'")
        self.model, self.phase = model, phase
        self.learning_rate = learning_rate or {"finetune": 2e-5, "distill": 2e-4}[phase]
        self.criterion = FastBertCriterion() if criterion is None else criterion
        students = tuple(f"classifiers.{i}." for i in range(len(model.classifiers) - 1))
        trained = {
            name: variable
            for name, (variable, _) in state.trainable(model).items()
            if name.startswith(students) == (phase == "distill")
        }
        self.optimizer = BertAdam(trained, max_norm=UNCLIPPED)
        self.optimizer.decay |= {name: 0.0 for name in trained if name.endswith((".gamma", ".beta"))}

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        parameters = self.optimizer.parameters
        sources = [p.value for p in parameters.values()]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)  # mirror: freezes
            losses = self.criterion(self.model(*inputs.values(), training=True), targets)
        gradients = tape.gradient(losses[self.phase], sources)
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient is sparse
        self.optimizer.step(dict(zip(parameters, gradients, strict=True)), self.learning_rate)
        return losses


def fastbert_base(num_classes: int = 2, pooling: str = "first", **options):
    sizes = {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072}
    return FastBert(**{**sizes, **options}, num_classes=num_classes, pooling=pooling)
