"""Inception v4: a branched stem, and three kinds of uniform blocks with reductions between them.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", 2016, arXiv:1602.07261.
Parameter names: timm ``models/inception_v4.py`` (Apache-2.0). The auxiliary classifier of the paper is not in it.

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit here. The average pools do not count the zeros of the padding.
- Dropout follows the framework's own generator.
"""

import keras
import tensorflow as tf

from tf_impl.classification.googlenet import BasicConv2d, scaled
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.linear import Dense
from tf_impl.layers.pooling import AveragePooling2D, MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionV4",
    "ReductionA",
    "ReductionB",
    "StemA",
    "StemB",
    "StemC",
    "inception_v4",
]


@keras.saving.register_keras_serializable("diptych")
class StemA(keras.layers.Layer):
    """Max pool and 3x3 convolution with stride 2 (figure 3, below).

    Args:
        channels: width of the convolution.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C + channels).
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.maxpool = MaxPooling2D(3, 2)
        self.conv = BasicConv2d(channels, 3, 2)

    def call(self, x, training=False):
        return tf.concat((self.maxpool(x), self.conv(x, training=training)), -1)


@keras.saving.register_keras_serializable("diptych")
class StemB(keras.layers.Layer):
    """3x3 next to 7x7 and 3x3, without padding (figure 3, middle).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H - 2, W - 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c64, c96 = scaled(width, 64, 96)
        self.branch0 = keras.Sequential([BasicConv2d(c64, 1), BasicConv2d(c96, 3)])
        self.branch1 = keras.Sequential(
            [
                BasicConv2d(c64, 1),
                BasicConv2d(c64, (1, 7), padding=(0, 3)),  # mirror: padding is explicit
                BasicConv2d(c64, (7, 1), padding=(3, 0)),
                BasicConv2d(c96, 3),
            ]
        )

    def call(self, x, training=False):
        return tf.concat((self.branch0(x, training=training), self.branch1(x, training=training)), -1)


@keras.saving.register_keras_serializable("diptych")
class StemC(keras.layers.Layer):
    """3x3 convolution with stride 2 and max pool: unlike in :class:`StemA`, the convolution comes first.

    Args:
        in_channels: width of the input and of the convolution.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, 2 C).
    """

    def __init__(self, in_channels: int, **kwargs):
        super().__init__(**kwargs)
        self.conv = BasicConv2d(in_channels, 3, 2)
        self.maxpool = MaxPooling2D(3, 2)

    def call(self, x, training=False):
        return tf.concat((self.conv(x, training=training), self.maxpool(x)), -1)


@keras.saving.register_keras_serializable("diptych", "inception_v4.InceptionA")
class InceptionA(keras.layers.Layer):
    """1x1, 3x3, twice 3x3, average pool side by side (figure 4).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c64, c96 = scaled(width, 64, 96)
        self.branch0 = BasicConv2d(c96, 1)
        self.branch1 = keras.Sequential([BasicConv2d(c64, 1), BasicConv2d(c96, 3, padding=1)])
        self.branch2 = keras.Sequential(
            [BasicConv2d(c64, 1), BasicConv2d(c96, 3, padding=1), BasicConv2d(c96, 3, padding=1)]
        )
        # mirror: do not count the zeros
        self.branch3 = keras.Sequential(
            [AveragePooling2D(3, 1, padding=1, count_include_pad=False), BasicConv2d(c96, 1)]
        )

    def call(self, x, training=False):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return tf.concat([branch(x, training=training) for branch in branches], -1)


@keras.saving.register_keras_serializable("diptych")
class ReductionA(keras.layers.Layer):
    """3x3, twice 3x3, max pool, all with stride 2 (figure 7).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c192, c224, c256, c384 = scaled(width, 192, 224, 256, 384)
        self.branch0 = BasicConv2d(c384, 3, 2)
        self.branch1 = keras.Sequential(
            [BasicConv2d(c192, 1), BasicConv2d(c224, 3, padding=1), BasicConv2d(c256, 3, 2)]
        )
        self.branch2 = MaxPooling2D(3, 2)

    def call(self, x, training=False):
        pooled = self.branch2(x)
        return tf.concat((self.branch0(x, training=training), self.branch1(x, training=training), pooled), -1)


@keras.saving.register_keras_serializable("diptych", "inception_v4.InceptionB")
class InceptionB(keras.layers.Layer):
    """1x1, 7x7, twice 7x7, average pool side by side; 7x7 as 1x7 and 7x1 (figure 5).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c128, c192, c224, c256, c384 = scaled(width, 128, 192, 224, 256, 384)
        self.branch0 = BasicConv2d(c384, 1)
        self.branch1 = keras.Sequential(
            [
                BasicConv2d(c192, 1),
                BasicConv2d(c224, (1, 7), padding=(0, 3)),
                BasicConv2d(c256, (7, 1), padding=(3, 0)),
            ]
        )
        self.branch2 = keras.Sequential(
            [
                BasicConv2d(c192, 1),
                BasicConv2d(c192, (7, 1), padding=(3, 0)),
                BasicConv2d(c224, (1, 7), padding=(0, 3)),
                BasicConv2d(c224, (7, 1), padding=(3, 0)),
                BasicConv2d(c256, (1, 7), padding=(0, 3)),
            ]
        )
        self.branch3 = keras.Sequential(
            [AveragePooling2D(3, 1, padding=1, count_include_pad=False), BasicConv2d(c128, 1)]
        )

    def call(self, x, training=False):
        branches = self.branch0, self.branch1, self.branch2, self.branch3
        return tf.concat([branch(x, training=training) for branch in branches], -1)


@keras.saving.register_keras_serializable("diptych")
class ReductionB(keras.layers.Layer):
    """3x3, 7x7 and 3x3, max pool, all with stride 2 (figure 8).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, (H - 1) // 2, (W - 1) // 2, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c192, c256, c320 = scaled(width, 192, 256, 320)
        self.branch0 = keras.Sequential([BasicConv2d(c192, 1), BasicConv2d(c192, 3, 2)])
        self.branch1 = keras.Sequential(
            [
                BasicConv2d(c256, 1),
                BasicConv2d(c256, (1, 7), padding=(0, 3)),
                BasicConv2d(c320, (7, 1), padding=(3, 0)),
                BasicConv2d(c320, 3, 2),
            ]
        )
        self.branch2 = MaxPooling2D(3, 2)

    def call(self, x, training=False):
        pooled = self.branch2(x)
        return tf.concat((self.branch0(x, training=training), self.branch1(x, training=training), pooled), -1)


@keras.saving.register_keras_serializable("diptych", "inception_v4.InceptionC")
class InceptionC(keras.layers.Layer):
    """1x1, 3x3, twice 3x3, average pool side by side; the last 3x3 is 1x3 next to 3x1 (figure 6).

    Args:
        width: multiplier of all channels.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, width: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        c256, c384, c448, c512 = scaled(width, 256, 384, 448, 512)
        self.branch0 = BasicConv2d(c256, 1)
        self.branch1_0 = BasicConv2d(c384, 1)
        self.branch1_1a = BasicConv2d(c256, (1, 3), padding=(0, 1))
        self.branch1_1b = BasicConv2d(c256, (3, 1), padding=(1, 0))
        self.branch2_0 = BasicConv2d(c384, 1)
        self.branch2_1 = BasicConv2d(c448, (3, 1), padding=(1, 0))
        self.branch2_2 = BasicConv2d(c512, (1, 3), padding=(0, 1))
        self.branch2_3a = BasicConv2d(c256, (1, 3), padding=(0, 1))
        self.branch2_3b = BasicConv2d(c256, (3, 1), padding=(1, 0))
        self.branch3 = keras.Sequential(
            [AveragePooling2D(3, 1, padding=1, count_include_pad=False), BasicConv2d(c256, 1)]
        )

    def call(self, x, training=False):
        one, pooled = self.branch0(x, training=training), self.branch3(x, training=training)
        three = self.branch1_0(x, training=training)
        wide, high = self.branch1_1a(three, training=training), self.branch1_1b(three, training=training)
        twice = self.branch2_1(self.branch2_0(x, training=training), training=training)
        twice = self.branch2_2(twice, training=training)
        wide2, high2 = self.branch2_3a(twice, training=training), self.branch2_3b(twice, training=training)
        return tf.concat((one, wide, high, wide2, high2, pooled), -1)


@keras.saving.register_keras_serializable("diptych")
class InceptionV4(Backbone):
    """The classifier.

    Args:
        layers: blocks A, B, C.
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
        layers: tuple[int, int, int] = (4, 7, 3),
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
        c32, c64, c96 = scaled(width, 32, 64, 96)
        features = [BasicConv2d(c32, 3, 2), BasicConv2d(c32, 3), BasicConv2d(c64, 3, padding=1)]
        self.stage_ends = [2, 3]  # index of the last block at each stride
        features += [StemA(c96), StemB(width), StemC(2 * c96)]
        kinds = (InceptionA, ReductionA), (InceptionB, ReductionB), (InceptionC, None)
        for count, (block, reduction) in zip(layers, kinds, strict=True):
            for _ in range(count):
                features.append(block(width))
            self.stage_ends.append(len(features) - 1)
            if reduction is not None:
                features.append(reduction(width))
        self.features = features
        if not features_only:
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows
            self.last_linear = Dense(num_classes)
        self.freeze(norm_eval, frozen_stages, norm)

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = images
        for block in self.features:
            x = block(x, training=training)
        return self.last_linear(self.dropout(tf.reduce_mean(x, (1, 2)), training=training))  # mirror: NHWC


def inception_v4(**options) -> InceptionV4:
    return InceptionV4(**options)
