"""EMANet: the map is reconstructed from a few bases, found in it by a few steps of expectation and maximisation.

"Expectation-Maximization Attention Networks for Semantic Segmentation", 2019, arXiv:1907.13426.
Parameter names: mmsegmentation ``decode_heads/ema_head.py`` (Apache-2.0); of :class:`EMANet` those of the authors'
checkpoints (XiaLiPKU/EMANet ``network.py``).
What to look at: bases and responsibilities have no gradient; they start from a moving average.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
- Dropout of whole channels is a noise shape in Keras.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import Bottleneck, ResNet
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationCriterion, SegmentationPostProcess
from tf_impl.segmentation._encoder_decoder import DecodeHead, EncoderDecoder, auxiliary_head, conv_bn, dilated_resnet

__all__ = [
    "ConvBNReLU",
    "EMACriterion",
    "EMAHead",
    "EMAModule",
    "EMANet",
    "EMAUnit",
    "SegmentationCriterion",
    "SegmentationPostProcess",
    "emanet_r50_d8",
    "emanet_r101_d8",
    "emanet_resnet50",
    "emanet_resnet101",
]

NORM = functools.partial(BatchNormalization, momentum=1 - 3e-4)  # as in the authors' settings


def at_least(divisor):
    """mmsegmentation's guard against 0."""
    return tf.maximum(divisor, 1e-12)


def raised(divisor):
    """The authors' guard against 0."""
    return divisor + 1e-6


def normalized(bases, guard):
    """Bases (N, C, K) divided by their guarded lengths."""
    return bases / guard(tf.sqrt(tf.reduce_sum(tf.square(bases), 1, keepdims=True)))


def rebuilt_from_bases(places, bases, num_stages: int, guard):
    """A map, rebuilt from the bases that steps of expectation and maximisation find in it (section 3.2).

    Args:
        places: (N, P, C).
        bases: (1, C, K), from which the first step starts.
        num_stages: number of steps, 1 or more.
        guard: keeps divisors above 0.

    Returns:
        (N, P, C), and the bases of every image (N, C, K).
    """
    bases = tf.tile(bases, (tf.shape(places)[0], 1, 1))
    for _ in range(num_stages):
        weights = tf.nn.softmax(tf.matmul(places, bases), -1)  # (N, P, K)
        shares = weights / guard(tf.reduce_sum(weights, 1, keepdims=True))
        bases = normalized(tf.matmul(places, shares, transpose_a=True), guard)
    return tf.matmul(weights, bases, transpose_b=True), bases


@keras.saving.register_keras_serializable("diptych")
class EMAModule(keras.layers.Layer):
    """The map, rebuilt from its bases.

    Args:
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of a batch's bases in the next batch's initial ones.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_bases, self.num_stages, self.momentum = num_bases, num_stages, momentum

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=(2 / self.num_bases) ** 0.5)

        def initial(shape, dtype=None):
            return normalized(normal(shape, dtype=dtype), at_least)

        shape = (1, input_shape[-1], self.num_bases)
        self.bases = self.add_weight(name="bases", shape=shape, initializer=initial, trainable=False)

    def call(self, x, training=False):
        places = tf.stop_gradient(tf.reshape(x, (tf.shape(x)[0], -1, x.shape[-1])))
        first = tf.convert_to_tensor(self.bases)
        rebuilt, bases = rebuilt_from_bases(places, first, self.num_stages, at_least)
        if training:
            found = normalized(tf.reduce_mean(bases, 0, keepdims=True), at_least)
            self.bases.assign((1 - self.momentum) * first + self.momentum * found)
        return tf.reshape(rebuilt, tf.shape(x))

    def get_config(self):
        own = {"num_bases": self.num_bases, "num_stages": self.num_stages, "momentum": self.momentum}
        return {**super().get_config(), **own}


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


@keras.saving.register_keras_serializable("diptych", "emanet.ConvBNReLU")
class ConvBNReLU(keras.layers.Layer):
    """A 3x3 convolution, normalisation, ReLU.  x: (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = Conv2D(filters, 3, padding=1, use_bias=False)
        self.bn = NORM()

    def call(self, x, training=False):
        return tf.nn.relu(self.bn(self.conv(x), training=training))


@keras.saving.register_keras_serializable("diptych")
class EMAUnit(keras.layers.Layer):
    """A map and its reconstruction from bases, as in the authors' code: with 1e-6 added to the divisors.

    The first convolution gets no gradient, as no gradient goes through the steps.

    Args:
        filters: width C of the map.
        num_bases: bases K.
        num_stages: steps of expectation and maximisation.
        momentum: weight of a batch's bases in the next batch's initial ones.

    Inputs: (N, H, W, C).
    Returns: (N, H, W, C), and the bases of every image (N, C, K).
    """

    def __init__(self, filters: int, num_bases: int = 64, num_stages: int = 3, momentum: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.num_bases, self.num_stages, self.momentum = num_bases, num_stages, momentum
        self.conv1 = Conv2D(filters, 1, kernel_initializer=KaimingNormal())
        conv = Conv2D(filters, 1, use_bias=False, kernel_initializer=KaimingNormal())
        self.conv2 = keras.Sequential([conv, NORM()])

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=(2 / self.num_bases) ** 0.5)

        def initial(shape, dtype=None):
            return normalized(normal(shape, dtype=dtype), raised)

        shape = (1, input_shape[-1], self.num_bases)
        self.mu = self.add_weight(name="mu", shape=shape, initializer=initial, trainable=False)

    def call(self, x, training=False):
        places = self.conv1(x)
        places = tf.stop_gradient(tf.reshape(places, (tf.shape(x)[0], -1, x.shape[-1])))
        first = tf.convert_to_tensor(self.mu)
        rebuilt, bases = rebuilt_from_bases(places, first, self.num_stages, raised)
        rebuilt = tf.reshape(rebuilt, tf.shape(x))
        if training:
            self.mu.assign((1 - self.momentum) * first + self.momentum * tf.reduce_mean(bases, 0, keepdims=True))
        return tf.nn.relu(self.conv2(tf.nn.relu(rebuilt), training=training) + x), bases


@keras.saving.register_keras_serializable("diptych")
class EMANet(Model):
    """The authors' network: a deep stem, dilations of 1, 2 and 4 times 4 in the last stage, no auxiliary head.

    Args:
        layers: blocks of the stages of the residual network.
        num_classes: classes K.
        planes: nominal widths of the stages.
        ema_channels, num_bases, num_stages: see :class:`EMAUnit`.
        channels: of the last map.
        dropout: rate, of whole channels.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"logits"`` (N, H, W, K), ``"bases"`` (N, ema_channels, num_bases).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        num_classes: int = 21,
        planes: tuple[int, ...] = (64, 128, 256, 512),
        ema_channels: int = 512,
        num_bases: int = 64,
        num_stages: int = 3,
        channels: int = 256,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        trunk = ResNet(
            Bottleneck,
            layers,
            planes=planes,
            deep_stem=(planes[0], planes[0], 2 * planes[0]),
            output_stride=8,
            multi_grid=(2, 8, 16),
            norm=NORM,
            features_only=True,
        )
        stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        self.extractor = keras.Sequential([trunk.conv1, trunk.bn1, keras.layers.ReLU(), trunk.maxpool, *stages])
        self.fc0 = ConvBNReLU(ema_channels)
        self.emau = EMAUnit(ema_channels, num_bases, num_stages)
        whole = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))  # mirror: whole channels
        self.fc1 = keras.Sequential([ConvBNReLU(channels), whole])
        self.fc2 = Conv2D(num_classes, 1)

    def call(self, images, training=False):
        x = self.fc0(self.extractor(images, training=training), training=training)
        x, bases = self.emau(x, training=training)
        logits = self.fc2(self.fc1(x, training=training))
        return {"logits": resize_bilinear(logits, map_size(images), align_corners=True), "bases": bases}


@keras.saving.register_keras_serializable("diptych")
class EMACriterion(SegmentationCriterion):
    """Mean cross-entropy of all pixels, those that are ignored counted as 0.

    Args:
        ignore_index: label of pixels that add nothing.

    Inputs and returns: as for :class:`SegmentationCriterion`; the one term is ``"ce"``.
    """

    def __init__(self, ignore_index: int = 255, **kwargs):
        super().__init__((("ce", "logits", 1.0),), ignore_index, **kwargs)


def emanet_resnet50(layers=(3, 4, 6, 3), **options) -> EMANet:
    return EMANet(layers, **options)


def emanet_resnet101(layers=(3, 4, 23, 3), **options) -> EMANet:
    return EMANet(layers, **options)
