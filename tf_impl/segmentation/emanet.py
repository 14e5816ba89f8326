"""EMANet: the map is rebuilt from a few bases, which a few steps of expectation and maximisation find in it.

"Expectation-Maximization Attention Networks for Semantic Segmentation", 2019, arXiv:1907.13426.
Parameter names: mmsegmentation ``decode_heads/ema_head.py`` (Apache-2.0).
What to look at: no gradient goes through the bases and the responsibilities; their start is a moving average.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "EMAHead",
    "EMAModule",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "emanet_r50_d8",
    "emanet_r101_d8",
]


@keras.saving.register_keras_serializable("diptych")
class EMAModule(keras.layers.Layer):
    """The map, rebuilt from its bases (section 3.2).

    Args:
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of the bases that a batch found in those that the next one starts from.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_bases, self.num_stages, self.momentum = num_bases, num_stages, momentum

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=(2 / self.num_bases) ** 0.5)

        def initial(shape, dtype=None):
            return normalized(normal(shape, dtype=dtype))

        shape = (1, input_shape[-1], self.num_bases)
        self.bases = self.add_weight(name="bases", shape=shape, initializer=initial, trainable=False)

    def call(self, x, training=False):
        places = tf.stop_gradient(tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1])))  # (N, P, C)
        first = tf.convert_to_tensor(self.bases)
        bases = tf.tile(first, (tf.shape(x)[0], 1, 1))
        for _ in range(self.num_stages):
            weights = tf.nn.softmax(tf.matmul(places, bases), -1)  # (N, P, K)
            shares = weights / tf.maximum(tf.reduce_sum(weights, 1, keepdims=True), 1e-12)
            bases = normalized(tf.matmul(places, shares, transpose_a=True))
        rebuilt = tf.matmul(weights, bases, transpose_b=True)
        if training:
            found = normalized(tf.reduce_mean(bases, 0, keepdims=True))
            self.bases.assign((1 - self.momentum) * first + self.momentum * found)
        return tf.reshape(rebuilt, tf.shape(x))

    def get_config(self):
        own = {"num_bases": self.num_bases, "num_stages": self.num_stages, "momentum": self.momentum}
        return {**super().get_config(), **own}


def normalized(bases):
    """Bases (N, C, K) of length 1; 1e-12 for those of length 0."""
    return bases / tf.maximum(tf.sqrt(tf.reduce_sum(tf.square(bases), 1, keepdims=True)), 1e-12)


@keras.saving.register_keras_serializable("diptych")
class EMAHead(DecodeHead):
    """A convolution, the rebuilt map added to its result, and two more convolutions.

    Args:
        filters: of the last convolutions.
        num_classes, dropout: see :class:`DecodeHead`.
        ema_filters: of the map that is rebuilt.
        num_bases, num_stages, momentum: see :class:`EMAModule`.

    Inputs: dict of maps (N, H, W, C).
    Returns: logits (N, H, W, K).
    """

    def __init__(
        self,
        filters: int = 256,
        num_classes: int = 19,
        dropout: float = 0.1,
        ema_filters: int = 512,
        num_bases: int = 64,
        num_stages: int = 3,
        momentum: float = 0.1,
        **kwargs,
    ):
        super().__init__(num_classes, dropout, **kwargs)
        self.ema_module = EMAModule(num_bases, num_stages, momentum)
        self.ema_in_conv = conv_bn(ema_filters, 3, padding=1)
        self.ema_mid_conv = conv_bn(ema_filters, 1, norm=None, activation=None)
        self.ema_mid_conv.trainable = False
        self.ema_out_conv = conv_bn(ema_filters, 1, activation=None)
        self.bottleneck = conv_bn(filters, 3, padding=1)
        self.conv_cat = conv_bn(filters, 3, padding=1)

    def call(self, maps, training=False):
        x = self.ema_in_conv(maps["c5"], training=training)
        rebuilt = tf.nn.relu(self.ema_module(self.ema_mid_conv(x), training=training))
        y = self.bottleneck(tf.nn.relu(x + self.ema_out_conv(rebuilt, training=training)), training=training)
        return self.classify(self.conv_cat(tf.concat((maps["c5"], y), -1), training=training), training)


def emanet_r50_d8(
    depth: int = 50,
    num_classes: int = 19,
    channels: int = 256,
    aux_channels: int = 256,
    dropout: float = 0.1,
    ema_channels: int = 512,
    num_bases: int = 64,
    num_stages: int = 3,
    **options,
) -> EncoderDecoder:
    backbone = dilated_resnet(depth, **options)
    head = EMAHead(channels, num_classes, dropout, ema_channels, num_bases, num_stages)
    return EncoderDecoder(backbone, head, auxiliary_head(backbone, num_classes, aux_channels, dropout))


def emanet_r101_d8(depth: int = 101, **options) -> EncoderDecoder:
    return emanet_r50_d8(depth=depth, **options)
