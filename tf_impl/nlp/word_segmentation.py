"""Character taggers for Chinese word segmentation: random fields over features, over an LSTM and over a GRU.

A character is tagged B, M, E (at the beginning, in the middle, at the end of a word) or S (a single-character word), or
with a separate set of tags for every kind of word. "Bidirectional LSTM-CRF Models for Sequence Tagging", 2015,
arXiv:1508.01991; "Chinese Lexical Analysis with Deep Bi-GRU-CRF Network", 2018, arXiv:1807.01882. Parameter names:
kmkurn/pytorch-crf and PyTorch's for the LSTM; for the GRU the files of ``lac_small`` in fxsjy/jieba, which load
unchanged.

Mirror notes:
- PyTorch's embedding has a padding row, which gets no gradient; TensorFlow stops the gradient there.
"""

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.layers.linear import Embedding, SequenceDense
from tf_impl.layers.model import TextModel, TokenModel
from tf_impl.layers.paddle_gru import FC, DynamicGRU, bidirectional_gru
from tf_impl.layers.recurrent import LSTM
from tf_impl.losses.crf import BMES, CRF, CRFCriterion, CRFPostProcess
from tf_impl.training.optimizers import Adam

__all__ = [
    "BiGRUCRF",
    "BiLSTMCRF",
    "CRFCriterion",
    "CRFPostProcess",
    "LinearCRF",
    "LinearCRFTrainer",
    "bigru_crf_lac",
    "bilstm_crf",
    "linear_crf",
]


def lengths_of(mask):
    """Characters of every text; at least one, so that the recursion can start.  (N, T) -> (N,)."""
    return tf.maximum(tf.reduce_sum(tf.cast(mask != 0, tf.int64), 1), 1)


@keras.saving.register_keras_serializable("diptych")
class LinearCRF(TextModel):
    """Random field whose emissions are sums of feature weights.

    Args:
        num_features: rows of the table of weights; row 0 stands for no feature and stays 0.
        num_tags: tags K.
        constraints: see :class:`tf_impl.losses.crf.CRF`.

    Inputs: ``features`` (N, T, F) int, the features of every character, 0 = none; ``mask`` (N, T) int, 1 = character.
    Returns: what :class:`tf_impl.losses.crf.CRF` returns.
    """

    def __init__(self, num_features: int, num_tags: int = 4, constraints=None, **kwargs):
        super().__init__(**kwargs)
        self.features = Embedding(num_features, num_tags, embeddings_initializer="zeros")
        self.crf = CRF(num_tags, constraints)

    def call(self, features, mask, training=False):
        weights = self.features(features)
        weights = tf.where((features == 0)[..., None], tf.stop_gradient(weights), weights)  # mirror: padding row
        return self.crf(tf.reduce_sum(weights, 2), mask)


class LinearCRFTrainer:
    """Training steps on the whole set: likelihood and a penalty of large weights, by Adam.

    Args:
        model: a :class:`LinearCRF`.
        criterion: its losses.
        l2: of the sum of the squares of all weights.
        learning_rate: of every step.
    """

    def __init__(self, model, criterion=None, l2: float = 0.1, learning_rate: float = 0.0625):
        self.model, self.l2 = model, l2
        self.criterion = CRFCriterion("sum") if criterion is None else criterion
        self.parameters = [variable for variable, _ in state.trainable(model).values()]
        self.optimizer = Adam(self.parameters, lr=learning_rate)

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        with tf.GradientTape() as tape:
            losses = self.criterion(self.model(*inputs.values(), training=True), targets)
            penalty = self.l2 * sum(tf.reduce_sum(tf.square(p)) for p in self.parameters)
            total = losses["nll"] + penalty
        gradients = tape.gradient(total, [p.value for p in self.parameters])
        self.optimizer.step([tf.convert_to_tensor(g) for g in gradients])  # an embedding's gradient is sparse
        return {"nll": losses["nll"], "penalty": penalty, "total": total}


@keras.saving.register_keras_serializable("diptych")
class BiLSTMCRF(TokenModel):
    """Embedding, LSTM in both directions, dropout, linear layer, random field.

    Args:
        vocab_size, embed_dim: size of the embedding.
        hidden: width of the LSTM per direction.
        num_tags: tags K.
        dropout: rate before the linear layer.
        constraints: see :class:`tf_impl.losses.crf.CRF`.

    Inputs: ``input_ids`` (N, T) int; ``mask`` (N, T) int, 1 = character, 0 = padding after the text.
    Returns: what :class:`tf_impl.losses.crf.CRF` returns.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 100,
        hidden: int = 150,
        num_tags: int = 4,
        dropout: float = 0.5,
        constraints=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding = Embedding(vocab_size, embed_dim)
        self.lstm = LSTM(hidden, batch_first=True, bidirectional=True)
        self.dropout = keras.layers.Dropout(dropout)
        self.hidden2tag = SequenceDense(num_tags)
        self.crf = CRF(num_tags, constraints)

    def call(self, input_ids, mask, training=False):
        x = self.lstm(self.embedding(input_ids), lengths=lengths_of(mask))[0]
        return self.crf(self.hidden2tag(self.dropout(x, training=training)), mask)


@keras.saving.register_keras_serializable("diptych")
class BiGRUCRF(TokenModel):
    """Embedding, two GRU layers in both directions, linear layer, random field.

    Args:
        vocab_size, embed_dim: size of the embedding.
        hidden: width of the GRU per direction.
        num_tags: tags K.

    Inputs and returns: those of :class:`BiLSTMCRF`. ``crfw`` holds the scores at the start (row 0), at the end (row 1)
        and from tag to tag.
    """

    def __init__(self, vocab_size: int, embed_dim: int, hidden: int, num_tags: int, **kwargs):
        super().__init__(**kwargs)
        words, tags = (keras.initializers.RandomUniform(-0.1, 0.1) for _ in range(2))
        self.word_emb = self.add_weight(name="word_emb", shape=(vocab_size, embed_dim), initializer=words)
        self.fc_0, self.gru_0 = FC(3 * hidden), DynamicGRU(hidden)
        self.fc_1, self.gru_1 = FC(3 * hidden), DynamicGRU(hidden)
        self.fc_2, self.gru_2 = FC(3 * hidden), DynamicGRU(hidden)
        self.fc_3, self.gru_3 = FC(3 * hidden), DynamicGRU(hidden)
        self.fc_4 = FC(num_tags)
        self.crfw = self.add_weight(name="crfw", shape=(num_tags + 2, num_tags), initializer=tags)

    def call(self, input_ids, mask, training=False):
        lengths = lengths_of(mask)
        x = tf.gather(tf.convert_to_tensor(self.word_emb), input_ids)
        x = bidirectional_gru(x, lengths, (self.fc_0, self.gru_0), (self.fc_1, self.gru_1))
        x = bidirectional_gru(x, lengths, (self.fc_2, self.gru_2), (self.fc_3, self.gru_3))
        crfw = tf.convert_to_tensor(self.crfw)
        return {
            "emissions": self.fc_4(x),
            "valid": tf.cast(mask, x.dtype),
            "start_transitions": crfw[0],
            "end_transitions": crfw[1],
            "transitions": crfw[2:],
        }


def linear_crf(constrained: bool = True, **options):
    return LinearCRF(**{"num_features": 200_000, "constraints": BMES if constrained else None, **options})


def bilstm_crf(constrained: bool = False, **options):
    return BiLSTMCRF(**{"vocab_size": 5000, "constraints": BMES if constrained else None, **options})


def bigru_crf_lac(**options):
    return BiGRUCRF(**{"vocab_size": 20941, "embed_dim": 128, "hidden": 128, "num_tags": 57, **options})
