"""DenseASPP: on a dilated DenseNet, convolutions of growing dilation, each of which sees all results before it.

"DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018; "Densely Connected Convolutional Networks", 2016,
arXiv:1608.06993.
Layer names: DeepMotionAIResearch/DenseASPP ``models/DenseASPP.py`` (names and shapes only), without dots inside names.
What to look at: the first block's ReLU works on the features in place in the reference, so everything after it sees the
result; the newest features come first.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.model import Model
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.losses.segmentation import SegmentationPostProcess
from tf_impl.segmentation.gcn import GCNCriterion

__all__ = [
    "DenseASPP",
    "DenseASPPBlock",
    "DenseFeatures",
    "DenseLayer",
    "GCNCriterion",
    "SegmentationPostProcess",
    "Transition",
    "denseaspp_densenet121",
    "denseaspp_densenet161",
    "denseaspp_densenet169",
    "denseaspp_densenet201",
]


RATES = (3, 6, 12, 18, 24)


def he_uniform() -> keras.initializers.Initializer:
    """Uniform with variance 2 / fan_in; one for every layer."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "uniform")


@keras.saving.register_keras_serializable("diptych")
class DenseLayer(keras.layers.Layer):
    """Normalisation, ReLU, 1x1, and the same with 3x3; appended to the input.

    Args:
        growth: channels that are appended; the 1x1 convolution has four times as many.
        dilation_rate: of the 3x3 convolution.

    x: (N, H, W, C) -> (N, H, W, C + growth).
    """

    def __init__(self, growth: int, dilation_rate: int, **kwargs):
        super().__init__(**kwargs)
        d = dilation_rate
        self.norm1 = BatchNormalization()
        self.conv1 = Conv2D(4 * growth, 1, use_bias=False, kernel_initializer=he_uniform())
        self.norm2 = BatchNormalization()
        self.conv2 = Conv2D(growth, 3, padding=d, dilation_rate=d, use_bias=False, kernel_initializer=he_uniform())

    def call(self, x, training=False):
        y = self.conv1(tf.nn.relu(self.norm1(x, training=training)))
        return tf.concat((x, self.conv2(tf.nn.relu(self.norm2(y, training=training)))), -1)


@keras.saving.register_keras_serializable("diptych")
class Transition(keras.layers.Layer):
    """Half the channels, and optionally half the size.  x: (N, H, W, C) -> (N, H', W', filters)."""

    def __init__(self, filters: int, pool: bool, **kwargs):
        super().__init__(**kwargs)
        self.norm = BatchNormalization()
        self.conv = Conv2D(filters, 1, use_bias=False, kernel_initializer=he_uniform())
        self.pool = AveragePooling2D(2) if pool else keras.layers.Identity()

    def call(self, x, training=False):
        return self.pool(self.conv(tf.nn.relu(self.norm(x, training=training))))


@keras.saving.register_keras_serializable("diptych")
class DenseBlock(keras.layers.Layer):
    """Dense layers, one after the other.  x: (N, H, W, C) -> (N, H, W, C + depth * growth)."""

    def __init__(self, depth: int, growth: int, dilation_rate: int, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        for j in range(depth):
            setattr(self, f"denselayer{j + 1}", DenseLayer(growth, dilation_rate))

    def call(self, x, training=False):
        for j in range(self.depth):
            x = getattr(self, f"denselayer{j + 1}")(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class DenseFeatures(keras.layers.Layer):
    """The dilated DenseNet.

    Args:
        growth: see :class:`DenseLayer`.
        initial: channels of the stem.
        layers: dense layers of the four blocks.
        output_stride: 8 or 16.

    x: (N, H, W, 3) -> (N, H / output_stride, W / output_stride, C); ``channels`` says C.
    """

    def __init__(self, growth: int, initial: int, layers: tuple[int, ...], output_stride: int, **kwargs):
        super().__init__(**kwargs)
        self.conv0 = Conv2D(initial, 7, strides=2, padding=3, use_bias=False, kernel_initializer=he_uniform())
        self.norm0 = BatchNormalization()
        self.pool0 = MaxPooling2D(3, 2, padding=1)
        dilations = (1, 1, 2, 4) if output_stride == 8 else (1, 1, 1, 2)
        pools = (True, output_stride == 16, False, False)
        channels = initial
        for i, (depth, dilation, pool) in enumerate(zip(layers, dilations, pools, strict=True), start=1):
            setattr(self, f"denseblock{i}", DenseBlock(depth, growth, dilation))
            channels = (channels + depth * growth) // 2
            setattr(self, f"transition{i}", Transition(channels, pool))
        self.norm5 = BatchNormalization()
        self.channels = channels

    def call(self, images, training=False):
        x = self.pool0(tf.nn.relu(self.norm0(self.conv0(images), training=training)))
        for i in range(1, 5):
            x = getattr(self, f"denseblock{i}")(x, training=training)
            x = getattr(self, f"transition{i}")(x, training=training)
        return self.norm5(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class DenseASPPBlock(keras.layers.Layer):
    """Normalisation (except in the first block), ReLU, 1x1, and the same with a dilated 3x3.

    Args:
        mid_filters, filters: between, and of the result.
        rate: dilation.
        norm: whether there is a first normalisation.
        dropout: rate at the end.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, mid_filters: int, filters: int, rate: int, norm: bool, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.norm1 = BatchNormalization(momentum=0.9997) if norm else None
        options = {"bias_initializer": "zeros"}
        self.conv1 = Conv2D(mid_filters, 1, kernel_initializer=he_uniform(), **options)
        self.norm2 = BatchNormalization(momentum=0.9997)
        options |= {"padding": rate, "dilation_rate": rate}
        self.conv2 = Conv2D(filters, 3, kernel_initializer=he_uniform(), **options)
        self.dropout = keras.layers.Dropout(dropout)

    def call(self, x, training=False):
        x = x if self.norm1 is None else self.norm1(x, training=training)
        y = self.norm2(self.conv1(tf.nn.relu(x)), training=training)
        return self.dropout(self.conv2(tf.nn.relu(y)), training=training)


@keras.saving.register_keras_serializable("diptych")
class DenseASPP(Model):
    """The network.

    Args:
        growth, initial, layers: see :class:`DenseFeatures`.
        d0, d1: channels between and of the result of each :class:`DenseASPPBlock`.
        num_classes: classes K.
        output_stride: 8 or 16.
        dropout: rate of the blocks, and of whole channels before the classifier.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"logits"`` (N, H', W', K) of eight times the size of the map.
    Raises: ValueError if ``output_stride`` is neither.
    """

    def __init__(
        self,
        growth: int,
        initial: int,
        layers: tuple[int, ...],
        d0: int,
        d1: int,
        num_classes: int = 19,
        output_stride: int = 8,
        dropout: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride={output_stride} must be 8 or 16")
        self.output_stride = output_stride
        self.features = DenseFeatures(growth, initial, layers, output_stride)
        for i, rate in enumerate(RATES):
            setattr(self, f"ASPP_{rate}", DenseASPPBlock(d0, d1, rate, i > 0, dropout))
        whole_channels = keras.layers.Dropout(dropout, noise_shape=(None, 1, 1, None))
        classifier = Conv2D(num_classes, 1, kernel_initializer=he_uniform(), bias_initializer="zeros")
        self.classification = keras.Sequential([whole_channels, classifier])

    def call(self, images, training=False):
        x = tf.nn.relu(self.features(images, training=training))  # NOTE: in place in the reference
        if self.output_stride == 16:
            x = resize_bilinear(x, tuple(2 * n for n in map_size(x)))
        for rate in RATES:
            x = tf.concat((getattr(self, f"ASPP_{rate}")(x, training=training), x), -1)
        logits = self.classification(x, training=training)
        return {"logits": resize_bilinear(logits, tuple(8 * n for n in map_size(logits)))}


def denseaspp_densenet121(
    growth: int = 32, initial: int = 64, layers=(6, 12, 24, 16), d0: int = 128, d1: int = 64, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet161(
    growth: int = 48, initial: int = 96, layers=(6, 12, 36, 24), d0: int = 512, d1: int = 128, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet169(
    growth: int = 32, initial: int = 64, layers=(6, 12, 32, 32), d0: int = 336, d1: int = 168, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)


def denseaspp_densenet201(
    growth: int = 32, initial: int = 64, layers=(6, 12, 48, 32), d0: int = 480, d1: int = 240, **options
) -> DenseASPP:
    return DenseASPP(growth, initial, layers, d0, d1, **options)
