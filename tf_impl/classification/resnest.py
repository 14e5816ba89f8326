"""ResNeSt: ResNet-D whose 3x3 convolution has several branches, weighted against each other by channel attention.

"ResNeSt: Split-Attention Networks", 2020, arXiv:2004.08955.
Parameter names: the authors' ``resnest/torch/models`` (Apache-2.0) and timm ``resnest.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.resnet import ClassificationCriterion, ClassificationPostProcess, ResNet, shortcut
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AveragePooling2D, adaptive_avg_pool2d

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ResNeSt",
    "ResNeStBottleneck",
    "SplitAttention",
    "resnest14",
    "resnest26",
    "resnest50",
    "resnest50_fast_1s4x24d",
    "resnest50_fast_4s2x40d",
    "resnest101",
    "resnest200",
    "resnest269",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)


@keras.saving.register_keras_serializable("diptych")
class SplitAttention(keras.layers.Layer):
    """3x3 convolution into R maps of C channels, and their sum weighted per channel by a softmax over the R (figure 2).

    Args:
        channels: width C of the input and of the result.
        strides, dilation_rate: of the convolution.
        radix: number R of maps; 1 makes the attention a sigmoid.
        cardinality: number of channel groups within every map.
        norm: makes a normalisation.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), C).
    """

    def __init__(
        self,
        channels: int,
        strides: int = 1,
        dilation_rate: int = 1,
        radix: int = 2,
        cardinality: int = 1,
        norm=BatchNormalization,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.radix, self.cardinality = channels, radix, cardinality
        hidden = max(channels * radix // 4, 32)
        # mirror: padding is explicit
        self.conv = CONV(
            channels * radix,
            3,
            strides=strides,
            padding=dilation_rate,
            dilation_rate=dilation_rate,
            groups=cardinality * radix,
        )
        self.bn0 = norm()
        self.fc1 = Conv2D(hidden, 1, groups=cardinality, kernel_initializer=KaimingNormal, bias_initializer="zeros")
        self.bn1 = norm()
        self.fc2 = Conv2D(
            channels * radix, 1, groups=cardinality, kernel_initializer=KaimingNormal, bias_initializer="zeros"
        )

    def call(self, x, training=False):
        x = tf.nn.relu(self.bn0(self.conv(x), training=training))
        maps = [x[..., i * self.channels : (i + 1) * self.channels] for i in range(self.radix)]
        means = adaptive_avg_pool2d(sum(maps[1:], start=maps[0]), 1)
        logits = self.fc2(tf.nn.relu(self.bn1(self.fc1(means), training=training)))  # (N, 1, 1, R C)
        if self.radix == 1:
            return x * tf.sigmoid(logits)
        # the second layer has the groups first, in each of them the R maps; the maps have the groups second
        logits = tf.transpose(logits, (0, 3, 1, 2))  # in ONNX these transposes cancel those of the convolutions
        logits = tf.reshape(logits, (-1, self.cardinality, self.radix, self.channels // self.cardinality))
        weights = tf.transpose(tf.nn.softmax(logits, 2), (0, 2, 1, 3))
        weights = tf.reshape(weights, (-1, self.radix * self.channels, 1, 1))
        x = x * tf.transpose(weights, (0, 2, 3, 1))
        maps = [x[..., i * self.channels : (i + 1) * self.channels] for i in range(self.radix)]
        return sum(maps[1:], start=maps[0])


@keras.saving.register_keras_serializable("diptych")
class ResNeStBottleneck(keras.layers.Layer):
    """1x1 reduction, :class:`SplitAttention`, 1x1 expansion by four, and a shortcut; an average pool has the stride.

    Args:
        planes: nominal width of the block; the output has ``4 * planes``.
        strides: of the average pool.
        dilation_rate: not used; a block has one 3x3 convolution.
        first_dilation: of the 3x3 convolution.
        project: whether the shortcut has a projection.
        groups, base_width: there are ``groups * (planes * base_width // 64)`` channels between the 1x1 convolutions.
        norm: makes a normalisation.
        avg_down, zero_init_residual: see :class:`tf_impl.classification.resnet.ResNet`.
        stride_in_1x1: only False.
        radix, avd, avd_first: see :class:`ResNeSt`.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 * planes).
    """

    expansion = 4

    def __init__(
        self,
        planes: int,
        strides: int = 1,
        dilation_rate: int = 1,
        first_dilation: int = 1,
        project: bool = False,
        groups: int = 1,
        base_width: int = 64,
        norm=BatchNormalization,
        avg_down: bool = True,
        stride_in_1x1: bool = False,
        zero_init_residual: bool = False,
        radix: int = 2,
        avd: bool = True,
        avd_first: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if stride_in_1x1:
            raise ValueError(f"ResNeStBottleneck has stride_in_1x1=False only; stride_in_1x1={stride_in_1x1}")
        width, filters = planes * base_width // 64 * groups, planes * self.expansion
        self.avd_first = avd_first
        self.conv1 = CONV(width, 1)
        self.bn1 = norm()
        self.conv2 = SplitAttention(width, 1 if avd else strides, first_dilation, radix, groups, norm)
        self.pool = AveragePooling2D(3, strides, padding=1) if avd and strides > 1 else None
        self.conv3 = CONV(filters, 1)
        self.bn3 = norm(gamma_initializer="zeros" if zero_init_residual else "ones")
        self.downsample = shortcut(filters, strides, norm, avg_down) if project else None  # mirror: told whether

    def call(self, x, training=False):
        identity = x if self.downsample is None else self.downsample(x, training=training)
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        if self.pool is not None and self.avd_first:
            y = self.pool(y)
        y = self.conv2(y, training=training)
        if self.pool is not None and not self.avd_first:
            y = self.pool(y)
        y = self.bn3(self.conv3(y), training=training)
        return tf.nn.relu(y + identity)


@keras.saving.register_keras_serializable("diptych")
class ResNeSt(ResNet):
    """Stem, four stages, linear classifier.

    Args:
        layers: blocks of each stage.
        deep_stem: widths of the three 3x3 convolutions.
        avg_down: average pool before the projection of the shortcut.
        radix: maps of each :class:`SplitAttention`.
        avd: a 3x3 average pool takes the stride of the first block in stages 2 to 4; where dilation replaces the
            stride, the pool stays, without a stride.
        avd_first: the pool comes before the split attention.
        dropout: rate before the classifier.
        options: of :class:`tf_impl.classification.resnet.ResNet`, with the same inputs and results; ``groups`` is
            the cardinality.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        deep_stem: tuple[int, int, int] = (32, 32, 64),
        avg_down: bool = True,
        radix: int = 2,
        avd: bool = True,
        avd_first: bool = False,
        dropout: float = 0.0,
        **options,
    ):
        block = functools.partial(ResNeStBottleneck, radix=radix, avd=avd, avd_first=avd_first)
        super().__init__(block, layers, deep_stem=deep_stem, avg_down=avg_down, **options)
        for stage in (self.layer2, self.layer3, self.layer4):
            if avd and stage.layers[0].pool is None:
                stage.layers[0].pool = AveragePooling2D(3, 1, padding=1)
        self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows

    def call(self, images, training=False):
        maps = self.forward_features(images, training)
        if self.features_only:
            return maps
        return self.fc(self.dropout(tf.reduce_mean(maps["c5"], (1, 2)), training=training))  # mirror: NHWC


def resnest14(layers=(1, 1, 1, 1), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest26(layers=(2, 2, 2, 2), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest50(layers=(3, 4, 6, 3), **options) -> ResNeSt:
    return ResNeSt(layers=layers, **options)


def resnest101(layers=(3, 4, 23, 3), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest200(layers=(3, 24, 36, 3), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest269(layers=(3, 30, 48, 8), deep_stem=(64, 64, 128), **options) -> ResNeSt:
    return ResNeSt(layers=layers, deep_stem=deep_stem, **options)


def resnest50_fast_1s4x24d(radix=1, groups=4, base_width=24, avd_first=True, **options) -> ResNeSt:
    return resnest50(radix=radix, groups=groups, base_width=base_width, avd_first=avd_first, **options)


def resnest50_fast_4s2x40d(radix=4, groups=2, base_width=40, avd_first=True, **options) -> ResNeSt:
    return resnest50(radix=radix, groups=groups, base_width=base_width, avd_first=avd_first, **options)
