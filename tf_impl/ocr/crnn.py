"""CRNN: convolutions read a line of text as a sequence of columns; recurrent layers classify every column.

"An End-to-End Trainable Neural Network for Image-based Sequence Recognition and Its Application to Scene Text
Recognition", 2015, arXiv:1507.05717.
Parameter names: ``CRNN`` from meijieru/crnn.pytorch ``models/crnn.py`` (MIT); ``VGGCRNN`` from JaidedAI/EasyOCR
``easyocr/model/vgg_model.py`` (Apache-2.0), its second generation of networks; ``MeanCRNN`` from khmer-ocr-ocm.
All return raw logits, time first: (T, B, K). Class 0 is the blank.

Mirror notes:
- NHWC maps, whose columns are the sequence; in PyTorch NCHW.
"""

import keras
import tensorflow as tf

from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import SequenceDense
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.recurrent import LSTM
from tf_impl.losses.ctc import CTCCriterion, greedy_decode

__all__ = [
    "CRNN",
    "VGGCRNN",
    "CRNNPostProcess",
    "CTCCriterion",
    "MeanCRNN",
    "crnn",
    "crnn_english_g2",
    "crnn_khmer",
]

WIDTHS = (1, 2, 4, 4, 8, 8, 8)  # of the seven convolutions, times the first one's


@keras.saving.register_keras_serializable("diptych")
class CRNNFeatures(keras.layers.Layer):
    """Seven convolutions; batch normalisation after the third, fifth and seventh.

    Args:
        base: channels of the first convolution.
        leaky_relu: slope 0.2 below zero instead of 0.

    Inputs: (B, 32, W, in_channels).  Returns: (B, 1, W // 4 + 1, 8 base).
    """

    def __init__(self, base: int, leaky_relu: bool, **kwargs):
        super().__init__(**kwargs)
        widths = [base * width for width in WIDTHS]
        self.activation = LeakyReLU(0.2) if leaky_relu else keras.layers.ReLU()
        self.conv0 = self.conv(widths[0])
        self.conv1 = self.conv(widths[1])
        self.conv2 = self.conv(widths[2])
        self.batchnorm2 = self.norm()
        self.conv3 = self.conv(widths[3])
        self.conv4 = self.conv(widths[4])
        self.batchnorm4 = self.norm()
        self.conv5 = self.conv(widths[5])
        self.conv6 = self.conv(widths[6], 2, 0)
        self.batchnorm6 = self.norm()

    def conv(self, filters: int, kernel_size: int = 3, padding: int = 1) -> Conv2D:
        normal = keras.initializers.RandomNormal(stddev=0.02)  # as in the reference
        return Conv2D(filters, kernel_size, padding=padding, kernel_initializer=normal)

    def norm(self) -> BatchNormalization:
        return BatchNormalization(gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02))

    def call(self, x, training=False):
        x = max_pool2d(self.activation(self.conv0(x)), 2)
        x = max_pool2d(self.activation(self.conv1(x)), 2)
        x = self.activation(self.batchnorm2(self.conv2(x), training=training))
        x = self.activation(self.conv3(x))
        # the height is halved, the width grows by one column
        x = max_pool2d(x, (2, 2), (2, 1), (0, 1))
        x = self.activation(self.batchnorm4(self.conv4(x), training=training))
        x = max_pool2d(self.activation(self.conv5(x)), (2, 2), (2, 1), (0, 1))
        return self.activation(self.batchnorm6(self.conv6(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class BidirectionalLSTM(keras.layers.Layer):
    """A recurrent layer in both directions and a linear one.  (T, B, D) -> (T, B, units)."""

    def __init__(self, hidden: int, units: int, **kwargs):
        super().__init__(**kwargs)
        self.rnn = LSTM(hidden, bidirectional=True)
        self.embedding = SequenceDense(units)

    def call(self, x):
        return self.embedding(self.rnn(x)[0])


@keras.saving.register_keras_serializable("diptych")
class CRNN(Model):
    """The network of the paper.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        base: channels of the first convolution.
        nh: width of each direction of the recurrent layers.
        n_rnn: recurrent layers, at least 1.
        leaky_relu: see :class:`CRNNFeatures`.

    Inputs: (B, 32, W, in_chans), values from -1 to 1.  Returns: logits (W // 4 + 1, B, num_classes).
    Raises: ValueError if the height of the image does not shrink to 1.
    """

    def __init__(
        self,
        num_classes: int = 37,
        in_chans: int = 1,
        base: int = 64,
        nh: int = 256,
        n_rnn: int = 2,
        leaky_relu: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if n_rnn < 1:
            raise ValueError(f"n_rnn={n_rnn} must be at least 1")
        self.cnn = CRNNFeatures(base, leaky_relu)
        self.rnn = [BidirectionalLSTM(nh, units) for units in (*[nh] * (n_rnn - 1), num_classes)]

    def call(self, images, training=False):
        x = self.cnn(images, training=training)  # (B, 1, T, C)
        if x.shape[1] != 1:
            raise ValueError(f"pictures must be 32 pixels high; {images.shape[1]} leave {x.shape[1]} rows of features")
        x = tf.transpose(x[:, 0], (1, 0, 2))  # (T, B, C); mirror: columns are the sequence
        for layer in self.rnn:
            x = layer(x)
        return x


@keras.saving.register_keras_serializable("diptych")
class VGGFeatures(keras.layers.Layer):
    """Seven convolutions without padded pools; batch normalisation after the fifth and sixth.

    Args:
        filters: C, a multiple of 8.

    Inputs: (B, H, W, in_channels).  Returns: (B, H // 16 - 1, W // 4 - 1, C).
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        a, b, c, d = (filters // divisor for divisor in (8, 4, 2, 1))
        self.ConvNet = keras.Sequential(
            [
                Conv2D(a, 3, padding=1),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D(2),
                Conv2D(b, 3, padding=1),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D(2),
                Conv2D(c, 3, padding=1),
                keras.layers.ReLU(),
                Conv2D(c, 3, padding=1),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D((2, 1)),
                Conv2D(d, 3, padding=1, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
                Conv2D(d, 3, padding=1, use_bias=False),
                BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.MaxPooling2D((2, 1)),
                Conv2D(d, 2),
                keras.layers.ReLU(),
            ]
        )

    def call(self, x, training=False):
        return self.ConvNet(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class SequenceModeling(keras.layers.Layer):
    """:class:`BidirectionalLSTM` under EasyOCR's names."""

    def __init__(self, hidden: int, units: int, **kwargs):
        super().__init__(**kwargs)
        self.rnn = LSTM(hidden, bidirectional=True)
        self.linear = SequenceDense(units)

    def call(self, x):
        return self.linear(self.rnn(x)[0])


@keras.saving.register_keras_serializable("diptych")
class VGGCRNN(Model):
    """EasyOCR's variant: the mean over the height instead of a fixed height, and a separate linear layer at the end.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        output_channel: channels of the features, a multiple of 8.
        hidden_size: width of each direction of the recurrent layers, and of what they return.

    Inputs: (B, H, W, in_chans), H at least 32, values from -1 to 1.  Returns: logits (W // 4 - 1, B, num_classes);
        EasyOCR's are batch first.
    Raises: ValueError if ``output_channel`` is not a multiple of 8.
    """

    def __init__(
        self, num_classes: int = 97, in_chans: int = 1, output_channel: int = 256, hidden_size: int = 256, **kwargs
    ):
        super().__init__(**kwargs)
        if output_channel % 8:
            raise ValueError(f"output_channel={output_channel} must be a multiple of 8")
        self.FeatureExtraction = VGGFeatures(output_channel)
        self.SequenceModeling = [
            SequenceModeling(hidden_size, hidden_size),
            SequenceModeling(hidden_size, hidden_size),
        ]
        self.Prediction = SequenceDense(num_classes)

    def call(self, images, training=False):
        x = tf.reduce_mean(self.FeatureExtraction(images, training=training), 1)  # (B, T, C)
        x = tf.transpose(x, (1, 0, 2))  # (T, B, C)
        for layer in self.SequenceModeling:
            x = layer(x)
        return self.Prediction(x)


@keras.saving.register_keras_serializable("diptych")
class MeanCRNN(Model):
    """A variant with batch normalisation everywhere, the mean over the height, and one stacked recurrent module.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        base: channels of the first convolution.
        nh: width of each direction of the recurrent layers.
        n_rnn: stacked recurrent layers.
        dropout: rate of whole channels after every pool (the reference also has it between the recurrent layers).

    Inputs: (B, H, W, in_chans), H at least 32, values from -1 to 1.  Returns: logits (W // 4 - 1, B, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 984,
        in_chans: int = 1,
        base: int = 64,
        nh: int = 256,
        n_rnn: int = 2,
        dropout: float = 0.2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        pools = {0: (2, 2), 1: (2, 2), 3: (2, 1), 5: (2, 1)}  # convolution: the pool after it
        layers = []
        for i, width in enumerate(WIDTHS):
            last = i == len(WIDTHS) - 1
            layers.append(Conv2D(base * width, 2 if last else 3, padding=0 if last else 1))
            layers += [BatchNormalization(), keras.layers.ReLU()]
            if i in pools:
                layers += [keras.layers.MaxPooling2D(pools[i]), keras.layers.SpatialDropout2D(dropout)]
        self.cnn = keras.Sequential(layers)
        self.rnn = LSTM(nh, n_rnn, bidirectional=True)
        self.fc = SequenceDense(num_classes)

    def call(self, images, training=False):
        x = tf.reduce_mean(self.cnn(images, training=training), 1)  # (B, T, C)
        x = tf.transpose(x, (1, 0, 2))  # (T, B, C)
        return self.fc(self.rnn(x)[0])


@keras.saving.register_keras_serializable("diptych")
class CRNNPostProcess(keras.layers.Layer):
    """The labels of the best alignment (:func:`greedy_decode`).

    Args:
        blank: class of the blank.

    Inputs: logits (T, B, K).
    Returns: dict: ``"ids"`` (B, T) int64 classes, -1 after the end; ``"lengths"`` (B,) int64.
    """

    def __init__(self, blank: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.blank = blank

    def call(self, outputs):
        ids, lengths = greedy_decode(outputs, self.blank)
        return {"ids": ids, "lengths": lengths}


def crnn(**options) -> CRNN:
    """The network of the paper, for images 32 pixels high; digits and 26 letters."""
    return CRNN(**{"num_classes": 37, "base": 64, "nh": 256, "n_rnn": 2, **options})


def crnn_english_g2(**options) -> VGGCRNN:
    """EasyOCR's reader of English, second generation: 96 characters, images 64 pixels high."""
    return VGGCRNN(**{"num_classes": 97, "output_channel": 256, "hidden_size": 256, **options})


def crnn_khmer(**options) -> MeanCRNN:
    """The reader of Khmer and English in khmer-ocr-ocm: 983 characters, images 48 pixels high."""
    return MeanCRNN(**{"num_classes": 984, "base": 64, "nh": 256, "n_rnn": 2, **options})
