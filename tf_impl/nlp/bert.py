"""BERT: a bidirectional Transformer encoder, pre-trained to fill in words and to tell whether one sentence follows
another.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018, arXiv:1810.04805.
Parameter names: Hugging Face transformers ``models/bert/modeling_bert.py`` (Apache-2.0).

Mirror notes:
- Keras layers reserve the name ``output``; the attribute is ``output_`` there.
- PyTorch ties a decoder by giving two modules one parameter; Keras layers share one variable.
"""

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.layers.activation import gelu
from tf_impl.layers.attention import attend, mask_bias, merge_heads, split_heads
from tf_impl.layers.linear import Embedding, SequenceDense
from tf_impl.layers.model import TokenModel
from tf_impl.layers.normalization import LayerNormalization
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess, sparse_cross_entropy
from tf_impl.nlp.bert_adam import BertAdam

__all__ = [
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertMaskedLMCriterion",
    "BertMaskedLMPostProcess",
    "BertModel",
    "BertPreTrainingCriterion",
    "BertPreTrainingPostProcess",
    "BertQuestionAnsweringCriterion",
    "BertTrainer",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SentenceEncoder",
    "all_minilm_l6_v2",
    "bert_base_cased",
    "bert_base_chinese",
    "bert_base_uncased",
    "bert_large_cased",
    "bert_large_uncased",
    "bert_mini",
    "bert_small",
    "bert_tiny",
]

EPS = 1e-12  # of every layer normalisation


def dense(units: int) -> SequenceDense:
    """A dense layer with a kernel of deviation 0.02 and zero bias initially."""
    normal = keras.initializers.RandomNormal(stddev=0.02)
    return SequenceDense(units, kernel_initializer=normal, bias_initializer="zeros")


def embedding(rows: int, hidden: int) -> Embedding:
    """An embedding that starts normal with deviation 0.02."""
    return Embedding(rows, hidden, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02))


@keras.saving.register_keras_serializable("diptych")
class BertEmbeddings(keras.layers.Layer):
    """Sum of word, position and segment embeddings, normalised.  (N, T) int -> (N, T, D)."""

    def __init__(self, vocab_size: int, hidden: int, positions: int, types: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.word_embeddings = embedding(vocab_size, hidden)
        self.position_embeddings = embedding(positions, hidden)
        self.token_type_embeddings = embedding(types, hidden)
        self.LayerNorm = LayerNormalization(epsilon=EPS)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, input_ids, token_type_ids, training=False):
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = x + tf.convert_to_tensor(self.position_embeddings.embeddings)[: tf.shape(input_ids)[1]]
        return self.dropout(self.LayerNorm(x), training=training)


@keras.saving.register_keras_serializable("diptych")
class BertSelfAttention(keras.layers.Layer):
    """Scaled dot-product attention of several heads.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.dropout = keras.layers.Dropout(dropout)
        self.query = dense(hidden)
        self.key = dense(hidden)
        self.value = dense(hidden)

    def call(self, x, bias, training=False):
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        return merge_heads(attend(q, k, v, bias, self.dropout, training))


@keras.saving.register_keras_serializable("diptych")
class BertOutput(keras.layers.Layer):
    """Projection, dropout, residual, normalisation: the end of both halves of a layer."""

    def __init__(self, hidden: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(hidden)
        self.LayerNorm = LayerNormalization(epsilon=EPS)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, residual, training=False):
        return self.LayerNorm(self.dropout(self.dense(x), training=training) + residual)


@keras.saving.register_keras_serializable("diptych")
class BertAttention(keras.layers.Layer):
    """Self-attention with its residual.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.self = BertSelfAttention(hidden, heads, dropout)
        self.output_ = BertOutput(hidden, dropout)  # mirror: reserve the name

    def call(self, x, bias, training=False):
        return self.output_(self.self(x, bias, training=training), x, training=training)


@keras.saving.register_keras_serializable("diptych")
class BertIntermediate(keras.layers.Layer):
    """Dense and GELU.  (N, T, D) -> (N, T, F)."""

    def __init__(self, intermediate: int, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(intermediate)

    def call(self, x):
        return gelu(self.dense(x))


@keras.saving.register_keras_serializable("diptych")
class BertLayer(keras.layers.Layer):
    """Attention and feed-forward network, each with a residual and a normalisation after it."""

    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.attention = BertAttention(hidden, heads, dropout)
        self.intermediate = BertIntermediate(intermediate)
        self.output_ = BertOutput(hidden, dropout)

    def call(self, x, bias, training=False):
        x = self.attention(x, bias, training=training)
        return self.output_(self.intermediate(x), x, training=training)


@keras.saving.register_keras_serializable("diptych")
class BertEncoder(keras.layers.Layer):
    """All layers of the encoder, one after the other.  (N, T, D) -> (N, T, D)."""

    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.layer = [BertLayer(hidden, heads, intermediate, dropout) for _ in range(layers)]

    def call(self, x, bias, training=False):
        for layer in self.layer:
            x = layer(x, bias, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class BertPooler(keras.layers.Layer):
    """tanh of a dense layer on the first token.  (N, T, D) -> (N, D)."""

    def __init__(self, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(hidden)

    def call(self, x):
        return tf.tanh(self.dense(x[:, 0]))


@keras.saving.register_keras_serializable("diptych")
class BertModel(TokenModel):
    """Embeddings, encoder, pooler.

    Args:
        vocab_size, hidden, layers, heads, intermediate: sizes (V, D, number of layers and heads, F).
        positions: longest sequence.
        types: number of segments.
        dropout: rate after embeddings, attention and dense layers.
        pooler: whether there is one; as in the reference, heads that do not read it have none.

    Inputs: ``input_ids``, ``attention_mask`` (1 = token, 0 = padding), ``token_type_ids`` (segment): (N, T) int.
    Returns: dict: ``"last_hidden_state"`` (N, T, D), with a pooler ``"pooler_output"`` (N, D).
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        positions: int = 512,
        types: int = 2,
        dropout: float = 0.1,
        pooler: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.embeddings = BertEmbeddings(vocab_size, hidden, positions, types, dropout)
        self.encoder = BertEncoder(layers, hidden, heads, intermediate, dropout)
        self.pooler = BertPooler(hidden) if pooler else None

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        x = self.embeddings(input_ids, token_type_ids, training=training)
        bias = mask_bias(attention_mask[:, None, None] == 0, x.dtype)
        x = self.encoder(x, bias, training=training)
        pooled = {} if self.pooler is None else {"pooler_output": self.pooler(x)}
        return {"last_hidden_state": x, **pooled}


@keras.saving.register_keras_serializable("diptych")
class SentenceEncoder(BertModel):
    """BERT that returns one vector of length 1 per sentence: the mean over its tokens (sentence-transformers).

    Returns: dict: ``"embedding"`` (N, D), ``"last_hidden_state"`` (N, T, D), ``"pooler_output"`` (N, D).
    """

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        outputs = super().call(input_ids, attention_mask, token_type_ids, training)
        x = outputs["last_hidden_state"]
        mask = tf.cast(attention_mask[:, :, None], x.dtype)
        mean = tf.reduce_sum(x * mask, 1) / tf.maximum(tf.reduce_sum(mask, 1), 1e-9)
        length = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(mean), 1, keepdims=True), 1e-24))
        return {"embedding": mean / length, **outputs}


@keras.saving.register_keras_serializable("diptych")
class BertPredictionHeadTransform(keras.layers.Layer):
    """Dense, GELU, normalisation.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense(hidden)
        self.LayerNorm = LayerNormalization(epsilon=EPS)

    def call(self, x):
        return self.LayerNorm(gelu(self.dense(x)))


@keras.saving.register_keras_serializable("diptych")
class TiedDecoder(keras.layers.Layer):
    """y = x E^T + b with the word embedding E and another layer's bias.  (N, T, D) -> (N, T, V)."""

    def __init__(self, embedding: Embedding, bias: keras.Variable, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.bias = embedding.embeddings, bias

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.weight), transpose_b=True) + tf.convert_to_tensor(self.bias)


@keras.saving.register_keras_serializable("diptych")
class BertLMPredictionHead(keras.layers.Layer):
    """Scores of every word of the vocabulary; the matrix is the word embedding.  (N, T, D) -> (N, T, V)."""

    def __init__(self, hidden: int, embedding: Embedding, **kwargs):
        super().__init__(**kwargs)
        self.bias = self.add_weight(name="bias", shape=(embedding.input_dim,), initializer="zeros")
        self.transform = BertPredictionHeadTransform(hidden)
        self.decoder = TiedDecoder(embedding, self.bias)  # mirror: ties a decoder

    def call(self, x):
        return self.decoder(self.transform(x))


@keras.saving.register_keras_serializable("diptych")
class BertPreTrainingHeads(keras.layers.Layer):
    """Word prediction on every token and sentence relation on the pooled one."""

    def __init__(self, hidden: int, embedding: Embedding, **kwargs):
        super().__init__(**kwargs)
        self.predictions = BertLMPredictionHead(hidden, embedding)
        self.seq_relationship = dense(2)

    def call(self, x, pooled):
        return self.predictions(x), self.seq_relationship(pooled)


@keras.saving.register_keras_serializable("diptych")
class BertForPreTraining(TokenModel):
    """BERT with both pre-training heads.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"prediction_logits"`` (N, T, V), ``"seq_relationship_logits"`` (N, 2), 0 = is the next sentence.
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**options)
        embedding = self.bert.embeddings.word_embeddings
        self.cls = BertPreTrainingHeads(embedding.output_dim, embedding)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        outputs = self.bert(input_ids, attention_mask, token_type_ids, training=training)
        words, relation = self.cls(outputs["last_hidden_state"], outputs["pooler_output"])
        return {"prediction_logits": words, "seq_relationship_logits": relation}


@keras.saving.register_keras_serializable("diptych")
class BertOnlyMLMHead(keras.layers.Layer):
    """Word prediction on every token.  (N, T, D) -> (N, T, V)."""

    def __init__(self, hidden: int, embedding: Embedding, **kwargs):
        super().__init__(**kwargs)
        self.predictions = BertLMPredictionHead(hidden, embedding)

    def call(self, x):
        return self.predictions(x)


@keras.saving.register_keras_serializable("diptych")
class BertForMaskedLM(TokenModel):
    """BERT that fills in words.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"prediction_logits"`` (N, T, V).
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        embedding = self.bert.embeddings.word_embeddings
        self.cls = BertOnlyMLMHead(embedding.output_dim, embedding)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        x = self.bert(input_ids, attention_mask, token_type_ids, training=training)["last_hidden_state"]
        return {"prediction_logits": self.cls(x)}


@keras.saving.register_keras_serializable("diptych")
class BertForSequenceClassification(TokenModel):
    """BERT with a linear classifier on the pooled token.

    Args:
        num_classes: classes K.
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: logits (N, K).
    """

    def __init__(self, num_classes: int = 2, **options):
        super().__init__()
        self.bert = BertModel(**options)
        self.dropout = keras.layers.Dropout(options.get("dropout", 0.1))
        self.classifier = dense(num_classes)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        pooled = self.bert(input_ids, attention_mask, token_type_ids, training=training)["pooler_output"]
        return self.classifier(self.dropout(pooled, training=training))


@keras.saving.register_keras_serializable("diptych")
class BertForTokenClassification(TokenModel):
    """BERT with a linear classifier on every token.

    Args:
        num_classes: classes K.
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: logits (N, T, K).
    """

    def __init__(self, num_classes: int = 2, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        self.dropout = keras.layers.Dropout(options.get("dropout", 0.1))
        self.classifier = dense(num_classes)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        x = self.bert(input_ids, attention_mask, token_type_ids, training=training)["last_hidden_state"]
        return self.classifier(self.dropout(x, training=training))


@keras.saving.register_keras_serializable("diptych")
class BertForQuestionAnswering(TokenModel):
    """BERT that finds the first and the last token of an answer.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"start_logits"``, ``"end_logits"``: (N, T).
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        self.qa_outputs = dense(2)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        x = self.bert(input_ids, attention_mask, token_type_ids, training=training)["last_hidden_state"]
        logits = self.qa_outputs(x)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


@keras.saving.register_keras_serializable("diptych")
class BertForMultipleChoice(TokenModel):
    """BERT that scores several continuations of a text.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`, but (N, choices, T).
    Returns: logits (N, choices).
    """

    token_shape = (1, None)  # or any other number of choices

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**options)
        self.dropout = keras.layers.Dropout(options.get("dropout", 0.1))
        self.classifier = dense(1)

    def call(self, input_ids, attention_mask, token_type_ids, training=False):
        choices, length = input_ids.shape[1], tf.shape(input_ids)[2]
        flat = (tf.reshape(ids, (-1, length)) for ids in (input_ids, attention_mask, token_type_ids))
        pooled = self.bert(*flat, training=training)["pooler_output"]
        return tf.reshape(self.classifier(self.dropout(pooled, training=training)), (-1, choices))


@keras.saving.register_keras_serializable("diptych")
class BertPreTrainingCriterion(keras.layers.Layer):
    """Cross-entropy of the masked words and of the sentence relation (section 3.1).

    Inputs: ``outputs`` of :class:`BertForPreTraining`; ``targets``: ``"labels"`` (N, T) int, the word, or -100 where
        none was masked; ``"next_sentence_label"`` (N,) int, 0 = is the next sentence, 1 = is a random one.
    Returns: dict of scalars: ``"mlm"``, ``"nsp"``, ``"total"``.
    """

    def call(self, outputs, targets):
        mlm = sparse_cross_entropy(outputs["prediction_logits"], targets["labels"])
        nsp = sparse_cross_entropy(outputs["seq_relationship_logits"], targets["next_sentence_label"])
        return {"mlm": mlm, "nsp": nsp, "total": mlm + nsp}


@keras.saving.register_keras_serializable("diptych")
class BertPreTrainingPostProcess(keras.layers.Layer):
    """The most probable word of every token, and the probability that the second sentence follows.

    Inputs: ``outputs`` of :class:`BertForPreTraining`.
    Returns: dict: ``"words"`` (N, T) int64, ``"is_next"`` (N,) float in [0, 1].
    """

    def call(self, outputs):
        return {
            "words": tf.argmax(outputs["prediction_logits"], -1),
            "is_next": tf.nn.softmax(outputs["seq_relationship_logits"])[:, 0],
        }


@keras.saving.register_keras_serializable("diptych")
class BertMaskedLMCriterion(keras.layers.Layer):
    """Cross-entropy of the masked words (section 3.1).

    Inputs: ``outputs`` of :class:`BertForMaskedLM`; ``targets["labels"]`` (N, T) int, the word, or -100 where none was
        masked.
    Returns: dict of scalars: ``"mlm"``, ``"total"``.
    """

    def call(self, outputs, targets):
        loss = sparse_cross_entropy(outputs["prediction_logits"], targets["labels"])
        return {"mlm": loss, "total": loss}


@keras.saving.register_keras_serializable("diptych")
class BertMaskedLMPostProcess(keras.layers.Layer):
    """The most probable word of every token.

    Inputs: ``outputs`` of :class:`BertForMaskedLM`.
    Returns: dict: ``"words"`` (N, T) int64.
    """

    def call(self, outputs):
        return {"words": tf.argmax(outputs["prediction_logits"], -1)}


@keras.saving.register_keras_serializable("diptych")
class BertQuestionAnsweringCriterion(keras.layers.Layer):
    """Cross-entropy over all tokens of the answer's first and last one (section 4.2), averaged.

    Inputs: ``outputs`` of :class:`BertForQuestionAnswering`; ``targets``: ``"start_positions"`` and
        ``"end_positions"`` (N,) int, 0-based; a position outside the text (-100) does not count.
    Returns: dict of scalars: ``"start"``, ``"end"``, their mean ``"total"``.
    """

    def position_loss(self, logits, positions):
        tokens = tf.range(tf.shape(logits)[1], dtype=tf.int32)
        hit = tf.cast(tokens == tf.cast(positions, tf.int32)[:, None], logits.dtype)
        return -tf.reduce_sum(tf.nn.log_softmax(logits) * hit) / tf.maximum(tf.reduce_sum(hit), 1)

    def call(self, outputs, targets):
        start = self.position_loss(outputs["start_logits"], targets["start_positions"])
        end = self.position_loss(outputs["end_logits"], targets["end_positions"])
        return {"start": start, "end": end, "total": (start + end) / 2}


class BertTrainer:
    """Pre-training steps.

    Args:
        model: a :class:`BertForPreTraining`.
        criterion: its losses.
        learning_rate: of every step; see :func:`.bert_adam.linear_warmup`.
    """

    def __init__(self, model, criterion=None, learning_rate: float = 1e-4):
        self.model, self.learning_rate = model, learning_rate
        self.criterion = BertPreTrainingCriterion() if criterion is None else criterion
        self.optimizer = BertAdam({name: variable for name, (variable, _) in state.trainable(model).items()})

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        with tf.GradientTape() as tape:
            losses = self.criterion(self.model(*inputs.values(), training=True), targets)
        parameters = self.optimizer.parameters
        gradients = tape.gradient(losses["total"], [p.value for p in parameters.values()])
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient is sparse
        self.optimizer.step(dict(zip(parameters, gradients, strict=True)), self.learning_rate)
        return losses


HEADS = {
    "model": BertModel,
    "pretraining": BertForPreTraining,
    "masked_lm": BertForMaskedLM,
    "sequence": BertForSequenceClassification,
    "token": BertForTokenClassification,
    "question": BertForQuestionAnswering,
    "choice": BertForMultipleChoice,
    "sentence": SentenceEncoder,
}


def with_head(head: str, **options):
    """Build BERT with the given head."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {sorted(HEADS)}")
    return HEADS[head](**options)


def bert_tiny(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 128, "layers": 2, "heads": 2, "intermediate": 512, **options})


def bert_mini(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 256, "layers": 4, "heads": 4, "intermediate": 1024, **options})


def bert_small(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 512, "layers": 4, "heads": 8, "intermediate": 2048, **options})


def bert_base_uncased(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072, **options})


def bert_large_uncased(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096, **options})


def bert_base_cased(head: str = "pretraining", **options):
    return bert_base_uncased(head, **{"vocab_size": 28996, **options})


def bert_large_cased(head: str = "pretraining", **options):
    return bert_large_uncased(head, **{"vocab_size": 28996, **options})


def bert_base_chinese(head: str = "pretraining", **options):
    return bert_base_uncased(head, **{"vocab_size": 21128, **options})


def all_minilm_l6_v2(head: str = "sentence", **options):
    return with_head(head, **{"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536, **options})
