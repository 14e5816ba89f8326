"""MobileNetV3: inverted residuals found by search, with squeeze-and-excitation and piecewise linear activations.

"Searching for MobileNetV3", 2019, arXiv:1905.02244.
Parameter names: torchvision ``models/mobilenetv3.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch; padding is explicit in TensorFlow, because "same" would pad one side only at stride 2.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.classification.mobilenet_v2 import make_divisible
from tf_impl.layers.activation import Hardswish, hardsigmoid
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal, SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.squeeze_excite import SqueezeExcite
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "InvertedResidual",
    "MobileNetV3",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)

# kernel size, expanded width, output width, squeeze-and-excitation, hard swish, stride (tables 1 and 2)
LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
TAIL = 3  # blocks of the last stage, which `reduced_tail` and `dilated` change


def conv_bn(filters: int, kernel_size=1, strides=1, dilation_rate=1, groups=1, activation=None):
    """Convolution that keeps the size at stride 1, batch normalisation, and the activation if there is one."""
    padding = (kernel_size - 1) // 2 * dilation_rate
    return keras.Sequential(
        [
            # mirror: padding is explicit
            CONV(filters, kernel_size, strides=strides, padding=padding, dilation_rate=dilation_rate, groups=groups),
            BatchNormalization(epsilon=1e-3, momentum=0.99),
            *([] if activation is None else [activation()]),
        ]
    )


@keras.saving.register_keras_serializable("diptych", "mobilenet_v3.InvertedResidual")
class InvertedResidual(keras.layers.Layer):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 linear projection, shortcut (figure 4).

    Args:
        in_channels, expanded, filters: widths; no expansion layer if the first two are equal.
        kernel_size, strides: of the depthwise convolution.
        dilation_rate: above 1 it replaces the stride.
        attention: whether squeeze-and-excitation follows the depthwise convolution.
        activation: layer class without arguments.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        filters: int,
        kernel_size: int,
        strides: int,
        dilation_rate: int,
        attention: bool,
        activation,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shortcut = strides == 1 and in_channels == filters
        strides = 1 if dilation_rate > 1 else strides
        block = [] if expanded == in_channels else [conv_bn(expanded, activation=activation)]
        block.append(conv_bn(expanded, kernel_size, strides, dilation_rate, expanded, activation))
        if attention:
            block.append(SqueezeExcite(expanded, make_divisible(expanded // 4), hardsigmoid))
        self.block = keras.Sequential([*block, conv_bn(filters)])

    def call(self, x, training=False):
        y = self.block(x, training=training)
        return x + y if self.shortcut else y


@keras.saving.register_keras_serializable("diptych")
class MobileNetV3(Backbone):
    """The classifier.

    Args:
        rows: one block per row, see ``LARGE``.
        last_channels: width of the hidden layer of the classifier.
        width: multiplier of all channels.
        reduced_tail: halve the widths of the last stage and of the classifier, as DeepLab and SSDLite do.
        dilated: the last stage keeps stride 16 and dilates its kernels by 2.
        num_classes: classes K.
        in_chans: channels of the image.
        dropout: rate before the last layer.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ...; a
        dilated last stage keeps the name that belongs to the original stride.
    """

    def __init__(
        self,
        rows: tuple[tuple, ...],
        last_channels: int,
        width: float = 1.0,
        reduced_tail: bool = False,
        dilated: bool = False,
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
        channels = make_divisible(rows[0][2] * width)
        features = [conv_bn(channels, 3, 2, activation=Hardswish)]
        self.stage_ends = []  # index of the last block at each stride
        for i, (kernel_size, expanded, out, attention, hard_swish, stride) in enumerate(rows):
            tail = i >= len(rows) - TAIL
            if tail and reduced_tail:
                # the first block of the tail still expands the full width of the stage before it
                expanded, out = (expanded if i == len(rows) - TAIL else expanded // 2), out // 2
            out = make_divisible(out * width)
            if stride == 2:
                self.stage_ends.append(len(features) - 1)
            features.append(
                InvertedResidual(
                    channels,
                    make_divisible(expanded * width),
                    out,
                    kernel_size,
                    stride,
                    2 if tail and dilated else 1,
                    attention,
                    Hardswish if hard_swish else keras.layers.ReLU,
                )
            )
            channels = out
        self.stage_ends.append(len(features) - 1)
        if not features_only:
            features.append(conv_bn(6 * channels, activation=Hardswish))
            hidden = make_divisible((last_channels // 2 if reduced_tail else last_channels) * width)
            small = dict(kernel_initializer=SmallNormal, bias_initializer="zeros")
            self.classifier = keras.Sequential(
                # mirror: Dropout follows
                [Dense(hidden, **small), Hardswish(), keras.layers.Dropout(dropout), Dense(num_classes, **small)]
            )
        self.features = features
        self.freeze(norm_eval, frozen_stages, norm)

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = images
        for block in self.features:
            x = block(x, training=training)
        return self.classifier(tf.reduce_mean(x, (1, 2)), training=training)  # mirror: NHWC


def mobilenet_v3_large(rows=LARGE, last_channels=1280, **options) -> MobileNetV3:
    return MobileNetV3(rows=rows, last_channels=last_channels, **options)


def mobilenet_v3_small(rows=SMALL, last_channels=1024, **options) -> MobileNetV3:
    return MobileNetV3(rows=rows, last_channels=last_channels, **options)
