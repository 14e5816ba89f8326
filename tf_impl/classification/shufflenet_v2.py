"""ShuffleNet V2: half of the channels pass untouched, the other half is convolved, then both halves are mixed.

"ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018, arXiv:1807.11164.
Parameter names: torchvision ``models/shufflenetv2.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit in TensorFlow, because "same" would pad one side only at stride 2.
"""

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.channel_shuffle import channel_shuffle
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InvertedResidual",
    "ShuffleNetV2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]


def conv_bn_relu(filters: int, kernel_size: int = 1, strides: int = 1) -> list:
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU."""
    return [
        Conv2D(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=False),
        BatchNormalization(),
        keras.layers.ReLU(),
    ]


def depthwise_bn(channels: int, strides: int) -> list:
    """3x3 depthwise convolution and batch normalisation, without activation."""
    return [
        Conv2D(channels, 3, strides=strides, padding=1, groups=channels, use_bias=False),
        BatchNormalization(),
    ]


@keras.saving.register_keras_serializable("diptych", "shufflenet_v2.InvertedResidual")
class InvertedResidual(keras.layers.Layer):
    """The unit of figure 3 (c), and with stride 2 that of figure 3 (d), which convolves both halves.

    Args:
        in_channels, filters: widths; equal at stride 1.
        strides: 1 or 2.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, in_channels: int, filters: int, strides: int, **kwargs):
        super().__init__(**kwargs)
        half = filters // 2
        self.branch1 = None
        if strides == 2:
            self.branch1 = keras.Sequential([*depthwise_bn(in_channels, strides), *conv_bn_relu(half)])
        self.branch2 = keras.Sequential(
            [
                *conv_bn_relu(half),
                *depthwise_bn(half, strides),
                *conv_bn_relu(half),
            ]
        )

    def call(self, x, training=False):
        if self.branch1 is None:
            half = x.shape[-1] // 2
            x = tf.concat((x[..., :half], self.branch2(x[..., half:], training=training)), -1)  # mirror: NHWC
        else:
            x = tf.concat((self.branch1(x, training=training), self.branch2(x, training=training)), -1)
        return channel_shuffle(x, 2)


@keras.saving.register_keras_serializable("diptych")
class ShuffleNetV2(Backbone):
    """The classifier.

    Args:
        layers: units of stages 2, 3, 4.
        channels: widths of the first convolution, the stages and the last convolution.
        num_classes: classes K.
        in_chans: channels of the image.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no last convolution and classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 4, 8, 16, 32 (0 to 3) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int, int, int],
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
        self.conv1 = keras.Sequential(conv_bn_relu(channels[0], 3, 2))
        self.maxpool = MaxPooling2D(3, 2, padding=1)  # mirror: padding is explicit
        for i, count in enumerate(layers):
            units = [InvertedResidual(channels[i], channels[i + 1], 2)]
            units += [InvertedResidual(channels[i + 1], channels[i + 1], 1) for _ in range(count - 1)]
            setattr(self, f"stage{i + 2}", keras.Sequential(units))
        if not features_only:
            self.conv5 = keras.Sequential(conv_bn_relu(channels[4]))
            self.fc = Dense(num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [[self.conv1], [self.stage2], [self.stage3], [self.stage4]]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x = self.maxpool(self.conv1(images, training=training))
        maps = {"c2": x}
        for name, stage in zip(("c3", "c4", "c5"), (self.stage2, self.stage3, self.stage4), strict=True):
            x = maps[name] = stage(x, training=training)
        return {name: x for i, (name, x) in enumerate(maps.items()) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = self.maxpool(self.conv1(images, training=training))
        for stage in (self.stage2, self.stage3, self.stage4, self.conv5):
            x = stage(x, training=training)
        return self.fc(tf.reduce_mean(x, (1, 2)))


def shufflenet_v2_x0_5(layers=(4, 8, 4), channels=(24, 48, 96, 192, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x1_0(layers=(4, 8, 4), channels=(24, 116, 232, 464, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x1_5(layers=(4, 8, 4), channels=(24, 176, 352, 704, 1024), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)


def shufflenet_v2_x2_0(layers=(4, 8, 4), channels=(24, 244, 488, 976, 2048), **options) -> ShuffleNetV2:
    return ShuffleNetV2(layers=layers, channels=channels, **options)
