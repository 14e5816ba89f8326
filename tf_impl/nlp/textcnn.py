"""TextCNN: one convolution over the words of a sentence, the largest value of each filter, and a linear classifier.

"Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882. Parameter names:
Shawn1993/cnn-text-classification-pytorch ``model.py`` (Apache-2.0); behaviour and training: yoonkim/CNN_sentence.

Mirror notes:
- PyTorch's embedding has a padding row, which gets no gradient; TensorFlow stops the gradient at its tokens.
- PyTorch has (N, 1, T, D) maps, TensorFlow (N, T, D, 1); both kernels span all D columns.
"""

import keras
import tensorflow as tf

from tf_impl import state
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import ZeroRow
from tf_impl.layers.linear import Dense, Embedding
from tf_impl.layers.model import TokenModel
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "TextCNN",
    "TextCNNPostProcess",
    "TextCNNTrainer",
    "textcnn_multichannel",
    "textcnn_non_static",
    "textcnn_rand",
    "textcnn_static",
]

PAD = 0  # token of the padding; its row of the embedding is zero
RANGE = 0.25  # of initial word vectors
NORM = 3.0  # largest norm of a class's weights


def word_vectors(vocab_size: int, embed_dim: int) -> Embedding:
    """Uniform up to 0.25, and 0 for the padding."""
    rows = ZeroRow(keras.initializers.RandomUniform(-RANGE, RANGE), PAD)
    return Embedding(vocab_size, embed_dim, embeddings_initializer=rows)


def filters(count: int, kernel_size: tuple[int, int]) -> Conv2D:
    """Uniform up to 0.01, the bias zero."""
    uniform = keras.initializers.RandomUniform(-0.01, 0.01)
    return Conv2D(count, kernel_size, kernel_initializer=uniform, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class TextCNN(TokenModel):
    """Embedding, convolutions of several heights, ReLU, maximum over time, dropout, linear classifier.

    Args:
        vocab_size, embed_dim: size of the embedding (V, D), the padding's row included.
        num_classes: classes K.
        kernel_num: filters of each height.
        kernel_sizes: heights, in words.
        padding: padding tokens put before and after every sentence; None: one fewer than the largest height, so that
            every word is seen by all rows of every filter (yoonkim/CNN_sentence).
        mask_padding: whether to exclude windows without a word from the maximum; the original includes them.
        dropout: rate before the classifier. The original does not rescale in training and halves the weights at test
            time, which is equivalent.
        channels: ``"trained"``: one embedding, which is trained; ``"fixed"``: one that is not; ``"both"``: one of each,
            with the same filters on both.

    Inputs: ``input_ids`` (N, T) int; 0 = padding.
    Returns: logits (N, K).
    Raises: ValueError if ``channels`` is unknown, or a sentence is shorter than a filter.
    """

    def __init__(
        self,
        vocab_size: int = 18765,
        num_classes: int = 2,
        embed_dim: int = 300,
        kernel_num: int = 100,
        kernel_sizes: tuple[int, ...] = (3, 4, 5),
        padding: int | None = None,
        mask_padding: bool = False,
        dropout: float = 0.5,
        channels: str = "trained",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if channels not in ("trained", "fixed", "both"):
            raise ValueError(f"channels must be 'trained', 'fixed' or 'both', got {channels!r}")
        self.padding = max(kernel_sizes) - 1 if padding is None else padding
        self.kernel_sizes, self.mask_padding = tuple(kernel_sizes), mask_padding
        self.embed = word_vectors(vocab_size, embed_dim)
        self.embed.trainable = channels != "fixed"
        self.embed_static = None
        if channels == "both":
            self.embed_static = word_vectors(vocab_size, embed_dim)
            self.embed_static.trainable = False
        self.convs = [filters(kernel_num, (k, embed_dim)) for k in kernel_sizes]  # mirror: maps, TensorFlow
        self.dropout = keras.layers.Dropout(dropout)
        self.fc1 = Dense(num_classes, kernel_initializer="zeros", bias_initializer="zeros")

    def call(self, input_ids, training=False):
        length = input_ids.shape[1]  # unknown in a graph for any length
        if length is not None and length + 2 * self.padding < max(self.kernel_sizes):
            length += 2 * self.padding
            raise ValueError(f"input_ids: {length} tokens with padding; filters of {max(self.kernel_sizes)} need more")
        ids = tf.pad(input_ids, [[0, 0], [self.padding] * 2], constant_values=PAD)
        x = self.embed(ids)
        x = tf.where((ids == PAD)[..., None], tf.stop_gradient(x), x)  # mirror: padding row
        if self.embed_static is not None:
            x = x + self.embed_static(ids)  # the same filters on both: a sum of convolutions is that of the sum
        # how many there are before each position
        words = tf.pad(tf.cumsum(tf.cast(ids != PAD, x.dtype), 1), [[0, 0], [1, 0]])
        features = []
        for size, conv in zip(self.kernel_sizes, self.convs, strict=True):
            y = tf.nn.relu(conv(x[..., None]))[:, :, 0]  # (N, T - size + 1, filters)
            if self.mask_padding:
                # no value is less than the 0 of a window without words
                y = y * tf.cast(words[:, size:] > words[:, :-size], y.dtype)[..., None]
            features.append(tf.reduce_max(y, 1))
        return self.fc1(self.dropout(tf.concat(features, 1), training=training))


@keras.saving.register_keras_serializable("diptych")
class TextCNNPostProcess(ClassificationPostProcess):
    """The most probable class.

    Args:
        k: how many.

    Inputs: the logits (N, K).
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64.
    """

    def __init__(self, k: int = 1, **kwargs):
        super().__init__(k, **kwargs)


class TextCNNTrainer:
    """Training steps with Adadelta; after each, the classifier's weights are bounded.

    The weights of a class that are longer than 3 are scaled to that length, and the padding's vector is made zero.

    Args:
        model: a :class:`TextCNN`.
        criterion: its losses.
        rho, eps: of Adadelta, arXiv:1212.5701.

    Source: section 2.1 of the paper; yoonkim/CNN_sentence ``conv_net_sentence.py``.
    """

    def __init__(self, model, criterion=None, rho: float = 0.95, eps: float = 1e-6):
        self.model = model
        self.criterion = ClassificationCriterion() if criterion is None else criterion
        self.parameters = [variable for variable, _ in state.trainable(model).values()]
        self.optimizer = keras.optimizers.Adadelta(1.0, rho=rho, epsilon=eps)

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        with tf.GradientTape() as tape:
            losses = self.criterion(self.model(*inputs.values(), training=True), targets)
        gradients = tape.gradient(losses["total"], [p.value for p in self.parameters])
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # an embedding's gradient is sparse
        self.optimizer.apply_gradients(zip(gradients, self.parameters, strict=True))
        weight = tf.convert_to_tensor(self.model.fc1.kernel)  # (filters, K)
        norm = tf.sqrt(tf.reduce_sum(tf.square(weight), 0, keepdims=True))
        self.model.fc1.kernel.assign(weight * (tf.minimum(norm, NORM) / (1e-7 + norm)))
        rows = tf.convert_to_tensor(self.model.embed.embeddings)
        self.model.embed.embeddings.assign(tf.concat([tf.zeros_like(rows[:1]), rows[1:]], 0))
        return losses


def textcnn_rand(**options):
    return TextCNN(**{"channels": "trained", **options})


def textcnn_static(**options):
    return TextCNN(**{"channels": "fixed", **options})


def textcnn_non_static(**options):
    return TextCNN(**{"channels": "trained", **options})


def textcnn_multichannel(**options):
    return TextCNN(**{"channels": "both", **options})
