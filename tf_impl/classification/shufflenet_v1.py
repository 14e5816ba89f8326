"""ShuffleNet: 1x1 convolutions in groups, and a shuffle that lets the groups see each other.

"ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", 2017, arXiv:1707.01083.
Parameter names: megvii-model/ShuffleNet-Series ``ShuffleNetV1`` (MIT).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit in TensorFlow, because "same" would pad one side only at stride 2.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone, split
from tf_impl.layers.channel_shuffle import channel_shuffle
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "ShuffleNetV1",
    "ShuffleUnit",
    "shufflenet_v1_g3_x0_5",
    "shufflenet_v1_g3_x1_0",
    "shufflenet_v1_g3_x1_5",
    "shufflenet_v1_g3_x2_0",
    "shufflenet_v1_g8_x0_5",
    "shufflenet_v1_g8_x1_0",
    "shufflenet_v1_g8_x1_5",
    "shufflenet_v1_g8_x2_0",
]


@keras.saving.register_keras_serializable("diptych")
class ByInputWidth(keras.initializers.Initializer):
    """Normal with deviation 1 / input channels of a group."""

    def __call__(self, shape, dtype=None):
        return keras.initializers.RandomNormal(stddev=1 / shape[-2])(shape, dtype=dtype)


CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=ByInputWidth)
NORM = functools.partial(BatchNormalization, beta_initializer=keras.initializers.Constant(1e-4))


@keras.saving.register_keras_serializable("diptych")
class ShuffleUnit(keras.layers.Layer):
    """1x1 in groups, 3x3 depthwise, shuffle, 1x1 in groups (figure 2 b; figure 2 c at stride 2).

    The paper shuffles before the depthwise convolution; the published weights shuffle after it, by the inverse
    permutation.

    Args:
        in_channels, filters: widths; equal at stride 1.
        groups: of the 1x1 convolutions.
        strides: 1 adds the input; 2 appends its mean over 3x3 windows, whose channels the branch leaves out.
        first: the very first unit, whose first 1x1 convolution has a single group.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, in_channels: int, filters: int, groups: int, strides: int, first: bool, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        hidden = filters // 4
        branch = filters if strides == 1 else filters - in_channels
        self.branch_main_1 = keras.Sequential(
            [
                CONV(hidden, 1, groups=1 if first else groups),
                NORM(),
                keras.layers.ReLU(),
                CONV(hidden, 3, strides=strides, padding=1, groups=hidden),
                NORM(),
            ]
        )
        self.branch_main_2 = keras.Sequential(
            [
                CONV(branch, 1, groups=groups),
                NORM(),
            ]
        )
        self.branch_proj = AveragePooling2D(3, 2, padding=1) if strides == 2 else None

    def call(self, x, training=False):
        y = self.branch_main_1(x, training=training)
        y = self.branch_main_2(channel_shuffle(y, y.shape[-1] // self.groups), training=training)
        if self.branch_proj is None:
            return tf.nn.relu(x + y)
        return tf.concat((self.branch_proj(x), tf.nn.relu(y)), -1)  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class ShuffleNetV1(Backbone):
    """The classifier.

    Args:
        layers: units of stages 2, 3, 4.
        channels: widths of the first convolution and the stages.
        groups: of the 1x1 convolutions.
        num_classes: classes K.
        in_chans: channels of the image.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 4, 8, 16, 32 (0 to 3) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int, int],
        groups: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.first_conv = keras.Sequential(
            # mirror: padding is explicit
            [CONV(channels[0], 3, strides=2, padding=1, kernel_initializer=SmallNormal), NORM(), keras.layers.ReLU()]
        )
        self.maxpool = MaxPooling2D(3, 2, padding=1)
        units, width = [], channels[0]
        self.stage_ends = []  # index of the last unit of each stage
        for out, count in zip(channels[1:], layers, strict=True):
            for i in range(count):
                units.append(ShuffleUnit(width, out, groups, 2 if i == 0 else 1, not units))
                width = out
            self.stage_ends.append(len(units) - 1)
        self.features = units
        if not features_only:
            self.classifier = keras.Sequential([Dense(num_classes, use_bias=False, kernel_initializer=SmallNormal)])
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.first_conv], *split(self.features, self.stage_ends)]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.maxpool(self.first_conv(images, training=training))
        maps = {"c2": x}
        for i, unit in enumerate(self.features):
            x = unit(x, training=training)
            if i in self.stage_ends:
                maps[f"c{self.stage_ends.index(i) + 3}"] = x
        return {name: x for i, (name, x) in enumerate(maps.items()) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = self.maxpool(self.first_conv(images, training=training))
        for unit in self.features:
            x = unit(x, training=training)
        return self.classifier(tf.reduce_mean(x, (1, 2)))


def shufflenet_v1_g3_x0_5(layers=(4, 8, 4), channels=(12, 120, 240, 480), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x1_0(layers=(4, 8, 4), channels=(24, 240, 480, 960), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x1_5(layers=(4, 8, 4), channels=(24, 360, 720, 1440), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g3_x2_0(layers=(4, 8, 4), channels=(48, 480, 960, 1920), groups=3, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x0_5(layers=(4, 8, 4), channels=(16, 192, 384, 768), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x1_0(layers=(4, 8, 4), channels=(24, 384, 768, 1536), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x1_5(layers=(4, 8, 4), channels=(24, 576, 1152, 2304), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)


def shufflenet_v1_g8_x2_0(layers=(4, 8, 4), channels=(48, 768, 1536, 3072), groups=8, **options) -> ShuffleNetV1:
    return ShuffleNetV1(layers=layers, channels=channels, groups=groups, **options)
