"""ResNet v2: normalisation and activation come before each convolution, and nothing comes after the addition.

"Identity Mappings in Deep Residual Networks", 2016, arXiv:1603.05027; "Big Transfer (BiT): General Visual
Representation Learning", 2019, arXiv:1912.11370.
Parameter names: timm ``models/resnetv2.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Keras infers the input width, so a block is told whether its shortcut needs a projection.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.mobilenet_v2 import make_divisible
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D, StandardizedConv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import BatchNormalization, GroupNormalization
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "PreActBasic",
    "PreActBottleneck",
    "ResNetV2",
    "resnetv2_18",
    "resnetv2_34",
    "resnetv2_50",
    "resnetv2_50d",
    "resnetv2_50x1_bit",
    "resnetv2_50x3_bit",
    "resnetv2_101",
    "resnetv2_101d",
    "resnetv2_101x1_bit",
    "resnetv2_152",
]


@keras.saving.register_keras_serializable("diptych")
class Downsample(keras.layers.Layer):
    """1x1 convolution of the shortcut, without normalisation; with ``avg_down`` an average pool carries the stride."""

    def __init__(self, filters: int, strides: int, conv, avg_down: bool, **kwargs):
        super().__init__(**kwargs)
        self.pool = None
        if avg_down and strides > 1:
            self.pool = AveragePooling2D(2, strides, ceil_mode=True, count_include_pad=False)
        self.conv = conv(filters, 1, strides=1 if avg_down else strides)

    def call(self, x):
        return self.conv(x if self.pool is None else self.pool(x))


@keras.saving.register_keras_serializable("diptych")
class PreActBasic(keras.layers.Layer):
    """Two pre-activated 3x3 convolutions.

    Args:
        filters: width.
        strides: of the first convolution.
        conv, norm: make a convolution and a normalisation.
        downsample: makes the shortcut's projection, or None.
        project: whether the shortcut has a projection.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int, conv, norm, downsample=None, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.downsample = downsample(filters, strides) if project else None  # mirror: told whether
        self.norm1 = norm()
        self.conv1 = conv(filters, 3, strides=strides, padding=1)
        self.norm2 = norm()
        self.conv2 = conv(filters, 3, padding=1)

    def call(self, x, training=False):
        y = tf.nn.relu(self.norm1(x, training=training))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv1(y)
        return self.conv2(tf.nn.relu(self.norm2(y, training=training))) + shortcut


@keras.saving.register_keras_serializable("diptych")
class PreActBottleneck(keras.layers.Layer):
    """Pre-activated 1x1, 3x3, 1x1 convolutions; the middle is a quarter as wide.

    Args:
        filters: width.
        strides: of the 3x3 convolution.
        conv, norm: make a convolution and a normalisation.
        downsample: makes the shortcut's projection, or None if the input itself is the shortcut.
        project: ignored here.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int, conv, norm, downsample=None, project: bool = False, **kwargs):
        super().__init__(**kwargs)
        width = make_divisible(filters / 4)
        self.downsample = None if downsample is None else downsample(filters, strides)
        self.norm1 = norm()
        self.conv1 = conv(width, 1)
        self.norm2 = norm()
        self.conv2 = conv(width, 3, strides=strides, padding=1)
        self.norm3 = norm()
        self.conv3 = conv(filters, 1)

    def call(self, x, training=False):
        y = tf.nn.relu(self.norm1(x, training=training))
        shortcut = x if self.downsample is None else self.downsample(y)  # the raw input, not the activated one
        y = self.conv1(y)
        y = self.conv2(tf.nn.relu(self.norm2(y, training=training)))
        return self.conv3(tf.nn.relu(self.norm3(y, training=training))) + shortcut


@keras.saving.register_keras_serializable("diptych", "resnetv2.Stage")
class Stage(keras.layers.Layer):
    """Blocks of one width; the first has the stride and, in the bottleneck variant, always a projection."""

    def __init__(
        self, block, depth: int, in_channels: int, filters: int, strides: int, conv, norm, downsample, **kwargs
    ):
        super().__init__(**kwargs)
        project = strides > 1 or in_channels != filters
        blocks = [block(filters, strides, conv, norm, downsample, project)]
        blocks += [block(filters, 1, conv, norm) for _ in range(depth - 1)]
        self.blocks = keras.Sequential(blocks)

    def call(self, x, training=False):
        return self.blocks(x, training=training)


@keras.saving.register_keras_serializable("diptych", "resnetv2.Stem")
class Stem(keras.layers.Layer):
    """7x7 convolution alone, or three 3x3 ones (``deep``), then the pool.

    Args:
        filters: width.
        deep: widths of the first two of three 3x3 convolutions, with normalisation between them; or None.
        padded_pool: BiT's pool, where the border of zeros takes part in the maximum.
        conv, norm: make a convolution and a normalisation.
    """

    def __init__(self, filters: int, deep, padded_pool: bool, conv, norm, **kwargs):
        super().__init__(**kwargs)
        self.pool = MaxPooling2D(3, 2, padding=0 if padded_pool else 1)
        self.deep, self.padded_pool = deep is not None, padded_pool
        if deep is None:
            self.conv = conv(filters, 7, strides=2, padding=3)
        else:
            self.conv1 = conv(deep[0], 3, strides=2, padding=1)
            self.norm1 = norm()
            self.conv2 = conv(deep[1], 3, padding=1)
            self.norm2 = norm()
            self.conv3 = conv(filters, 3, padding=1)

    def call(self, x, training=False):
        if self.deep:
            x = tf.nn.relu(self.norm1(self.conv1(x), training=training))
            x = tf.nn.relu(self.norm2(self.conv2(x), training=training))
            x = self.conv3(x)
        else:
            x = self.conv(x)
        if self.padded_pool:
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])  # mirror: padding is explicit
        return self.pool(x)


@keras.saving.register_keras_serializable("diptych", "resnetv2.Head")
class Head(keras.layers.Layer):
    """Global average pool and a classifier that is stored as a 1x1 convolution.  (N, H, W, C) -> (N, K)."""

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.fc = Conv2D(num_classes, 1, kernel_initializer=KaimingNormal, bias_initializer="zeros")

    def call(self, x):
        return self.fc(tf.reduce_mean(x, (1, 2), keepdims=True))[:, 0, 0]  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class ResNetV2(Backbone):
    """Stem, four stages, normalisation, classifier.

    Args:
        block: :class:`PreActBasic` or :class:`PreActBottleneck`.
        layers: blocks of each stage.
        channels: width of each stage's output.
        num_classes: classes K.
        in_chans: channels of the image.
        width_factor: multiplies all widths.
        stem_channels: width of the stem, before ``width_factor``.
        deep_stem: widths of the first two of three 3x3 convolutions, or None for the 7x7 one.
        avg_down: average pool before the projection of the shortcut.
        bit: BiT's variant: standardised kernels, group normalisation, padded pool.
        groups: of the group normalisation.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the stages (1 to 4) ``forward_features`` returns.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of the maps ``"c2"`` to ``"c5"`` (strides 4 to 32), before
        normalisation.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        channels: tuple[int, ...] = (256, 512, 1024, 2048),
        num_classes: int = 1000,
        in_chans: int = 3,
        width_factor: int = 1,
        stem_channels: int = 64,
        deep_stem: tuple[int, int] | None = None,
        avg_down: bool = False,
        bit: bool = False,
        groups: int = 32,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        layer = functools.partial(StandardizedConv2D, epsilon=1e-8) if bit else Conv2D
        conv = functools.partial(layer, use_bias=False, kernel_initializer=KaimingNormal)
        make_norm = functools.partial(GroupNormalization, groups) if bit else BatchNormalization
        downsample = functools.partial(Downsample, conv=conv, avg_down=avg_down)
        width = stem_channels * width_factor
        self.stem = Stem(width, deep_stem, bit, conv, make_norm)
        stages = []
        for i, (depth, out) in enumerate(zip(layers, channels, strict=True)):
            out *= width_factor
            stages.append(Stage(block, depth, width, out, 1 if i == 0 else 2, conv, make_norm, downsample))
            width = out
        self.stages = stages
        if not features_only:
            self.norm = make_norm()
            self.head = Head(num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.stem], *([stage] for stage in self.stages)]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = self.stem(images, training=training), {}
        for i, stage in enumerate(self.stages, start=1):
            if i > max(self.out_indices):
                break
            x = stage(x, training=training)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def call(self, images, training=False):
        maps = self.forward_features(images, training)
        if self.features_only:
            return maps
        return self.head(tf.nn.relu(self.norm(maps["c5"], training=training)))


def resnetv2_18(layers=(2, 2, 2, 2), channels=(64, 128, 256, 512), **options) -> ResNetV2:
    return ResNetV2(PreActBasic, layers=layers, channels=channels, **options)


def resnetv2_34(layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), **options) -> ResNetV2:
    return ResNetV2(PreActBasic, layers=layers, channels=channels, **options)


def resnetv2_50(layers=(3, 4, 6, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_101(layers=(3, 4, 23, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_152(layers=(3, 8, 36, 3), **options) -> ResNetV2:
    return ResNetV2(PreActBottleneck, layers=layers, **options)


def resnetv2_50d(deep_stem=(32, 32), avg_down=True, **options) -> ResNetV2:
    return resnetv2_50(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnetv2_101d(deep_stem=(32, 32), avg_down=True, **options) -> ResNetV2:
    return resnetv2_101(deep_stem=deep_stem, avg_down=avg_down, **options)


def resnetv2_50x1_bit(bit=True, **options) -> ResNetV2:
    return resnetv2_50(bit=bit, **options)


def resnetv2_101x1_bit(bit=True, **options) -> ResNetV2:
    return resnetv2_101(bit=bit, **options)


def resnetv2_50x3_bit(bit=True, width_factor=3, **options) -> ResNetV2:
    return resnetv2_50(bit=bit, width_factor=width_factor, **options)
