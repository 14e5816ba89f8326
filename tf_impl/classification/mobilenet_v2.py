"""MobileNetV2: narrow residual ends, wide depthwise middles, no activation on the narrow part.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv:1801.04381.
Parameter names: torchvision ``models/mobilenetv2.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit, because "same" would pad one side only at stride 2.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal, SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InvertedResidual",
    "MobileNetV2",
    "make_divisible",
    "mobilenet_v2",
    "mobilenet_v2_035",
    "mobilenet_v2_050",
    "mobilenet_v2_075",
    "mobilenet_v2_140",
    "mobilenet_v2_embedding",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)

# expansion t, channels c, repeats n, stride s (table 2)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, but not below 90 % of it."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def conv_bn_relu6(filters: int, kernel_size: int = 1, strides: int = 1, groups: int = 1):
    """Convolution that keeps the size at stride 1, batch normalisation, ReLU6."""
    return keras.Sequential(
        [
            # mirror: padding is explicit
            CONV(filters, kernel_size, strides=strides, padding=kernel_size // 2, groups=groups),
            BatchNormalization(),
            keras.layers.ReLU(max_value=6),
        ]
    )


@keras.saving.register_keras_serializable("diptych", "mobilenet_v2.InvertedResidual")
class InvertedResidual(keras.layers.Layer):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection, and a shortcut where the shapes agree (figure 4).

    Args:
        in_channels, filters: widths of the narrow ends.
        strides: of the depthwise convolution, 1 or 2.
        expansion: width of the middle relative to ``in_channels``; 1 leaves the first convolution out.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, in_channels: int, filters: int, strides: int, expansion: int, **kwargs):
        super().__init__(**kwargs)
        hidden = in_channels * expansion
        self.shortcut = strides == 1 and in_channels == filters
        layers = [conv_bn_relu6(hidden)] if expansion != 1 else []
        layers += [
            conv_bn_relu6(hidden, 3, strides, groups=hidden),
            CONV(filters, 1),
            BatchNormalization(),
        ]
        self.conv = keras.Sequential(layers)

    def call(self, x, training=False):
        y = self.conv(x, training=training)
        return x + y if self.shortcut else y


@keras.saving.register_keras_serializable("diptych")
class MobileNetV2(Backbone):
    """The classifier.

    Args:
        width: multiplier of all channels; the last convolution does not go below 1280.
        stages: expansion, channels, repeats and stride of each stage, see ``STAGES``.
        num_classes: classes K; 0 leaves the classifier out.
        in_chans: channels of the image.
        dropout: rate before the classifier.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) ``features`` returns.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K), without classes the mean of the last map (N, D); with ``features_only`` a dict of maps
        ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        width: float = 1.0,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        num_classes: int = 1000,
        in_chans: int = 3,
        dropout: float = 0.2,
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
        channels = make_divisible(32 * width)
        features = [conv_bn_relu6(channels, 3, 2)]
        self.stage_ends = []  # index of the last block at each stride
        for t, c, n, s in stages:
            for i in range(n):
                stride = s if i == 0 else 1
                if stride == 2:
                    self.stage_ends.append(len(features) - 1)
                features.append(InvertedResidual(channels, make_divisible(c * width), stride, t))
                channels = make_divisible(c * width)
        self.stage_ends.append(len(features) - 1)
        if not features_only:
            last = make_divisible(1280 * max(1.0, width))
            features.append(conv_bn_relu6(last))
            self.classifier = None
            if num_classes:
                self.classifier = keras.Sequential(
                    [
                        keras.layers.Dropout(dropout),  # mirror: Dropout follows
                        Dense(num_classes, kernel_initializer=SmallNormal, bias_initializer="zeros"),
                    ]
                )
        self.features = features
        self.freeze(norm_eval, frozen_stages, norm)

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = images
        for block in self.features:
            x = block(x, training=training)
        x = tf.reduce_mean(x, (1, 2))  # mirror: NHWC
        return x if self.classifier is None else self.classifier(x, training=training)


def mobilenet_v2(**options) -> MobileNetV2:
    return MobileNetV2(**options)


def mobilenet_v2_035(**options) -> MobileNetV2:
    return MobileNetV2(width=0.35, **options)


def mobilenet_v2_050(**options) -> MobileNetV2:
    return MobileNetV2(width=0.5, **options)


def mobilenet_v2_075(**options) -> MobileNetV2:
    return MobileNetV2(width=0.75, **options)


def mobilenet_v2_140(**options) -> MobileNetV2:
    return MobileNetV2(width=1.4, **options)


def mobilenet_v2_embedding(num_classes=0, **options) -> MobileNetV2:
    return MobileNetV2(num_classes=num_classes, **options)
