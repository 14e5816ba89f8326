"""Inception-ResNet-v2: Inception branches, projected back, scaled and added to their input.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", 2016, arXiv:1602.07261.
Parameter names: timm ``models/inception_resnet_v2.py`` (Apache-2.0). It has no auxiliary classifier.

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit here. The average pool does not count the zeros of the padding.
- Dropout follows the framework's own generator.
"""

import keras
import tensorflow as tf

from tf_impl.classification.googlenet import BasicConv2d, scaled
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D, max_pool2d
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "Block8",
    "Block17",
    "Block35",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InceptionResNetV2",
    "Mixed5b",
    "Mixed6a",
    "Mixed7a",
    "inception_resnet_v2",
]

SCALES = (0.17, 0.10, 0.20)  # of the residuals of the three stages; the paper says 0.1 to 0.3


@keras.saving.register_keras_serializable("diptych")
class Mixed5b(keras.layers.Layer):
    """1x1, 5x5, twice 3x3, average pool side by side.

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c48, c64, c96 = scaled(width, 48, 64, 96)
        self.branch0 = BasicConv2d(c96, 1)
        self.branch1 = keras.Sequential([BasicConv2d(c48, 1), BasicConv2d(c64, 5, padding=2)])
        self.branch2 = keras.Sequential(
            # mirror: padding is explicit
            [BasicConv2d(c64, 1), BasicConv2d(c96, 3, padding=1), BasicConv2d(c96, 3, padding=1)]
        )
        # mirror: average pool does not count
        self.branch3 = keras.Sequential(
            [AveragePooling2D(3, 1, padding=1, count_include_pad=False), BasicConv2d(c64, 1)]
        )

    def call(self, x, training=False):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return tf.concat([branch(x, training=training) for branch in branches], -1)


@keras.saving.register_keras_serializable("diptych")
class Block35(keras.layers.Layer):
    """Residual block of 35x35 maps: 1x1, 3x3, twice 3x3 (figure 16).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        c32, c48, c64 = scaled(width, 32, 48, 64)
        self.branch0 = BasicConv2d(c32, 1)
        self.branch1 = keras.Sequential([BasicConv2d(c32, 1), BasicConv2d(c32, 3, padding=1)])
        self.branch2 = keras.Sequential(
            [BasicConv2d(c32, 1), BasicConv2d(c48, 3, padding=1), BasicConv2d(c64, 3, padding=1)]
        )
        self.conv2d = Conv2D(channels, 1)

    def call(self, x, training=False):
        branches = self.branch0, self.branch1, self.branch2
        y = tf.concat([branch(x, training=training) for branch in branches], -1)
        return tf.nn.relu(x + self.scale * self.conv2d(y))


@keras.saving.register_keras_serializable("diptych")
class Mixed6a(keras.layers.Layer):
    """3x3, twice 3x3, max pool, all with stride 2 (figure 7).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c256, c384 = scaled(width, 256, 384)
        self.branch0 = BasicConv2d(c384, 3, 2)
        self.branch1 = keras.Sequential(
            [BasicConv2d(c256, 1), BasicConv2d(c256, 3, padding=1), BasicConv2d(c384, 3, 2)]
        )
        self.branch2 = MaxPooling2D(3, 2)

    def call(self, x, training=False):
        pooled = self.branch2(x)
        return tf.concat((self.branch0(x, training=training), self.branch1(x, training=training), pooled), -1)


@keras.saving.register_keras_serializable("diptych")
class Block17(keras.layers.Layer):
    """Residual block of 17x17 maps: 1x1, and 7x7 as 1x7 and 7x1 (figure 17).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        c128, c160, c192 = scaled(width, 128, 160, 192)
        self.branch0 = BasicConv2d(c192, 1)
        self.branch1 = keras.Sequential(
            [
                BasicConv2d(c128, 1),
                BasicConv2d(c160, (1, 7), padding=(0, 3)),
                BasicConv2d(c192, (7, 1), padding=(3, 0)),
            ]
        )
        self.conv2d = Conv2D(channels, 1)

    def call(self, x, training=False):
        y = tf.concat((self.branch0(x, training=training), self.branch1(x, training=training)), -1)
        return tf.nn.relu(x + self.scale * self.conv2d(y))


@keras.saving.register_keras_serializable("diptych")
class Mixed7a(keras.layers.Layer):
    """3x3, 3x3, twice 3x3, max pool, all with stride 2 (figure 18).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c256, c288, c320, c384 = scaled(width, 256, 288, 320, 384)
        self.branch0 = keras.Sequential([BasicConv2d(c256, 1), BasicConv2d(c384, 3, 2)])
        self.branch1 = keras.Sequential([BasicConv2d(c256, 1), BasicConv2d(c288, 3, 2)])
        self.branch2 = keras.Sequential(
            [BasicConv2d(c256, 1), BasicConv2d(c288, 3, padding=1), BasicConv2d(c320, 3, 2)]
        )
        self.branch3 = MaxPooling2D(3, 2)

    def call(self, x, training=False):
        pooled, branches = self.branch3(x), (self.branch0, self.branch1, self.branch2)
        return tf.concat([*(branch(x, training=training) for branch in branches), pooled], -1)


@keras.saving.register_keras_serializable("diptych")
class Block8(keras.layers.Layer):
    """Residual block of 8x8 maps: 1x1, and 3x3 as 1x3 and 3x1 (figure 19).

    Args:
        channels: width of the input and of the output.
        scale: factor of the residual.
        width: multiplier of the inner channels.
        relu: whether a ReLU follows the sum; the last block has none.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, channels: int, scale: float, width: float = 1.0, relu: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.relu = scale, relu
        c192, c224, c256 = scaled(width, 192, 224, 256)
        self.branch0 = BasicConv2d(c192, 1)
        self.branch1 = keras.Sequential(
            [
                BasicConv2d(c192, 1),
                BasicConv2d(c224, (1, 3), padding=(0, 1)),
                BasicConv2d(c256, (3, 1), padding=(1, 0)),
            ]
        )
        self.conv2d = Conv2D(channels, 1)

    def call(self, x, training=False):
        y = tf.concat((self.branch0(x, training=training), self.branch1(x, training=training)), -1)
        y = x + self.scale * self.conv2d(y)
        return tf.nn.relu(y) if self.relu else y


@keras.saving.register_keras_serializable("diptych")
class InceptionResNetV2(Backbone):
    """The classifier.

    Args:
        layers: residual blocks of the three stages; the last has one more, without scale and ReLU.
        scales: factors of their residuals.
        width: multiplier of all channels.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, .... The
        convolutions of the stem and those with stride 2 do not pad, so the maps are a little smaller than the image
        divided by the stride.
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (10, 20, 9),
        scales: tuple[float, float, float] = SCALES,
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.0,
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
        c32, c64, c80, c192, c1536 = scaled(width, 32, 64, 80, 192, 1536)
        self.conv2d_1a = BasicConv2d(c32, 3, 2)
        self.conv2d_2a = BasicConv2d(c32, 3)
        self.conv2d_2b = BasicConv2d(c64, 3, padding=1)
        self.conv2d_3b = BasicConv2d(c80, 1)
        self.conv2d_4a = BasicConv2d(c192, 3)
        self.mixed_5b = Mixed5b(width)
        channels = sum(scaled(width, 96, 64, 96, 64))
        self.repeat = keras.Sequential([Block35(channels, scales[0], width) for _ in range(layers[0])])
        self.mixed_6a = Mixed6a(width)
        channels += sum(scaled(width, 384, 384))
        self.repeat_1 = keras.Sequential([Block17(channels, scales[1], width) for _ in range(layers[1])])
        self.mixed_7a = Mixed7a(width)
        channels += sum(scaled(width, 384, 288, 320))
        self.repeat_2 = keras.Sequential([Block8(channels, scales[2], width) for _ in range(layers[2])])
        self.block8 = Block8(channels, 1.0, width, relu=False)
        self.conv2d_7b = BasicConv2d(c1536, 1)
        if not features_only:
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows
            self.classif = Dense(num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        return [
            [self.conv2d_1a, self.conv2d_2a, self.conv2d_2b],
            [self.conv2d_3b, self.conv2d_4a],
            [self.mixed_5b, self.repeat],
            [self.mixed_6a, self.repeat_1],
            [self.mixed_7a, self.repeat_2, self.block8, self.conv2d_7b],
        ]

    def _maps(self, images, training=False) -> list:
        """The last map at each stride, 2 to 32."""
        x = self.conv2d_2a(self.conv2d_1a(images, training=training), training=training)
        maps = [self.conv2d_2b(x, training=training)]
        x = self.conv2d_3b(max_pool2d(maps[-1], 3, 2), training=training)
        maps.append(self.conv2d_4a(x, training=training))
        x = self.mixed_5b(max_pool2d(maps[-1], 3, 2), training=training)
        maps.append(self.repeat(x, training=training))
        x = self.mixed_6a(maps[-1], training=training)
        maps.append(self.repeat_1(x, training=training))
        x = self.mixed_7a(maps[-1], training=training)
        x = self.block8(self.repeat_2(x, training=training), training=training)
        maps.append(self.conv2d_7b(x, training=training))
        return maps

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        return {f"c{i + 1}": x for i, x in enumerate(self._maps(images, training)) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = self._maps(images, training)[-1]
        return self.classif(self.dropout(tf.reduce_mean(x, (1, 2)), training=training))  # mirror: NHWC


def inception_resnet_v2(**options) -> InceptionResNetV2:
    return InceptionResNetV2(**options)
