"""EncNet: the map's positions are encoded by learnt code words, and the code scales the channels of the map.

"Context Encoding for Semantic Segmentation", 2018, arXiv:1803.08904.
Parameter names: mmsegmentation ``decode_heads/enc_head.py``, ``utils/encoding.py`` (Apache-2.0).
What to look at: the normalisation after the encoding has one channel per code word, not per feature.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- The code words are axis 1 of an encoding in PyTorch and the last axis in TensorFlow, which normalisation uses.
"""

import keras
import tensorflow as tf

from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "EncHead",
    "EncModule",
    "EncNetCriterion",
    "Encoding",
    "SegmentationPostProcess",
    "encnet_r50_d8",
    "encnet_r101_d8",
]


@keras.saving.register_keras_serializable("diptych")
class Encoding(keras.layers.Layer):
    """Residuals of all positions to every code word, weighted by closeness (section 3.1).

    Args:
        num_codes: words K.

    x: (N, H, W, C) -> (N, C, K).
    """

    def __init__(self, num_codes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_codes = num_codes

    def build(self, input_shape):
        channels = input_shape[-1]
        bound = (self.num_codes * channels) ** -0.5
        uniform = keras.initializers.RandomUniform
        self.codewords = self.add_weight(
            name="codewords", shape=(self.num_codes, channels), initializer=uniform(-bound, bound)
        )
        self.scale = self.add_weight(name="scale", shape=(self.num_codes,), initializer=uniform(-1, 0))

    def call(self, x):
        words = tf.convert_to_tensor(self.codewords)
        places = tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1]))  # (N, P, C)
        distances = tf.reduce_sum(tf.square(places), -1, keepdims=True) - 2 * tf.matmul(places, words, transpose_b=True)
        distances = distances + tf.reduce_sum(tf.square(words), -1)  # (N, P, K)
        weights = tf.nn.softmax(self.scale * distances, -1)
        total = tf.reduce_sum(weights, 1)[:, None]  # mirror: axis 1
        return tf.matmul(places, weights, transpose_a=True) - total * tf.transpose(words)

    def get_config(self):
        return {**super().get_config(), "num_codes": self.num_codes}


@keras.saving.register_keras_serializable("diptych")
class EncModule(keras.layers.Layer):
    """The encoding of a map, and the map with its channels scaled by it.

    Args:
        filters: width C of the map.
        num_codes: words of the encoding.

    x: (N, H, W, C) -> the mean code (N, C), the scaled map (N, H, W, C).
    """

    def __init__(self, filters: int, num_codes: int, **kwargs):
        super().__init__(**kwargs)
        self.encoding_project = conv_bn(filters, 1)
        self.encoding = keras.Sequential([Encoding(num_codes), BatchNormalization(), keras.layers.ReLU()])
        self.fc = keras.Sequential([Dense(filters), keras.layers.Activation("sigmoid")])

    def call(self, x, training=False):
        code = tf.reduce_mean(self.encoding(self.encoding_project(x, training=training), training=training), -1)
        return code, tf.nn.relu(x + x * self.fc(code)[:, None, None])


@keras.saving.register_keras_serializable("diptych")
class EncHead(DecodeHead):
    """A convolution, the encoding, and classes of pixels and of the image (section 3.2).

    Args:
        filters: of every convolution.
        num_classes, dropout: see :class:`DecodeHead`.
        num_codes: words of the encoding.
        add_lateral: whether the earlier maps ``"c3"`` and ``"c4"`` are joined.

    Inputs: dict of maps (N, H, W, C).
    Returns: dict: ``"logits"`` (N, H, W, K); ``"se_logits"`` (N, K), which classes the image shows.
    """

    def __init__(
        self,
        filters: int = 512,
        num_classes: int = 19,
        dropout: float = 0.1,
        num_codes: int = 32,
        add_lateral: bool = False,
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.add_lateral = add_lateral
        self.bottleneck = conv_bn(filters, 3, padding=1)
        if add_lateral:
            self.lateral_convs = [conv_bn(filters, 1) for _ in range(2)]
            self.fusion = conv_bn(filters, 3, padding=1)
        self.enc_module = EncModule(filters, num_codes)
        self.se_layer = Dense(num_classes)

    def call(self, maps, training=False):
        x = self.bottleneck(maps["c5"], training=training)
        if self.add_lateral:
            laterals = [conv(maps[name], training=training) for name, conv in zip(("c3", "c4"), self.lateral_convs)]
            joined = tf.concat((x, *(resize_bilinear(y, map_size(x)) for y in laterals)), -1)
            x = self.fusion(joined, training=training)
        code, x = self.enc_module(x, training=training)
        return {"logits": self.classify(x, training), "se_logits": self.se_layer(code)}


@keras.saving.register_keras_serializable("diptych")
class EncNetCriterion(SegmentationCriterion):
    """Cross-entropy of the pixels, and which classes the image shows (the "SE loss").

    Args:
        se_weight: weight of the latter.
        options: of :class:`SegmentationCriterion`.

    Inputs: as for :class:`SegmentationCriterion`, and ``outputs["se_logits"]`` (N, K).
    Returns: dict of scalars: its terms, ``"decode.loss_se"``, ``"total"``.
    """

    def __init__(self, se_weight: float = 0.2, **options):
        super().__init__(**options)
        self.se_weight = se_weight

    def call(self, outputs, targets):
        losses, logits = super().call(outputs, targets), outputs["se_logits"]
        labels = tf.reshape(targets["labels"], (tf.shape(logits)[0], -1, 1))
        shown = tf.reduce_any(labels == tf.range(logits.shape[1], dtype=labels.dtype), 1)  # (N, K)
        entropies = tf.nn.relu(logits) - logits * tf.cast(shown, logits.dtype) + tf.math.softplus(-tf.abs(logits))
        losses["decode.loss_se"] = self.se_weight * tf.reduce_mean(entropies)
        return {**losses, "total": losses["total"] + losses["decode.loss_se"]}


def encnet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 512,
    aux_channels: int = 256,
    dropout: float = 0.1,
    num_codes: int = 32,
    add_lateral: bool = False,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = EncHead(channels, num_classes, dropout, num_codes, add_lateral)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def encnet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return encnet_r50_d8(depth=depth, **options)
