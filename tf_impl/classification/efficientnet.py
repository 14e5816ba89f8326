"""EfficientNet: depth, width and resolution of a searched network scaled together; and its Lite variant for small
devices.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946.
Parameter names: timm ``tf_efficientnet_*`` (Apache-2.0), whose weights come from the TensorFlow release.

Mirror notes:
- NHWC here, NCHW in PyTorch.
- "same" padding depends on the size of the map; TensorFlow has it built in, PyTorch only at stride 1.
- Dropout and stochastic depth follow the framework's own generator.
"""

import functools
import math

import keras
import tensorflow as tf

from tf_impl.classification.mobilenet_v2 import make_divisible
from tf_impl.layers.backbone import Backbone, split
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import adaptive_avg_pool2d
from tf_impl.layers.stochastic_depth import StochasticDepth
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "DepthwiseSeparable",
    "EfficientNet",
    "InvertedResidual",
    "tf_efficientnet_b0",
    "tf_efficientnet_b1",
    "tf_efficientnet_b2",
    "tf_efficientnet_b3",
    "tf_efficientnet_b4",
    "tf_efficientnet_b5",
    "tf_efficientnet_b6",
    "tf_efficientnet_b7",
    "tf_efficientnet_lite0",
]

CONV = functools.partial(Conv2D, use_bias=False, kernel_initializer=KaimingNormal)

# expansion, kernel size, stride, channels, repeats (table 1)
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
DROP_PATH = 0.2  # rate of the last block; it grows linearly from 0


def convolution(filters: int, kernel_size: int, strides: int, pad_mode: str, groups: int = 1):
    """Convolution without bias; at stride 1 it keeps the size in both modes."""
    padding = "same" if pad_mode == "same" and strides > 1 else kernel_size // 2  # mirror: "same" padding
    return CONV(filters, kernel_size, strides=strides, padding=padding, groups=groups)


def activation(x, lite: bool):
    return tf.nn.relu6(x) if lite else tf.nn.silu(x)


@keras.saving.register_keras_serializable("diptych", "efficientnet.SqueezeExcite")
class SqueezeExcite(keras.layers.Layer):
    """Channel attention with swish; its width follows the block's input, not the expanded map.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, channels: int, squeezed: int, **kwargs):
        super().__init__(**kwargs)
        self.conv_reduce = Conv2D(squeezed, 1, kernel_initializer=KaimingNormal, bias_initializer="zeros")
        self.conv_expand = Conv2D(channels, 1, kernel_initializer=KaimingNormal, bias_initializer="zeros")

    def call(self, x):
        s = tf.nn.silu(self.conv_reduce(adaptive_avg_pool2d(x, 1)))
        return x * tf.sigmoid(self.conv_expand(s))


@keras.saving.register_keras_serializable("diptych")
class DepthwiseSeparable(keras.layers.Layer):
    """Depthwise convolution, squeeze-and-excitation, 1x1 projection without activation: a block without expansion.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, in_channels, filters, kernel_size, strides, lite, pad_mode, batch_norm, drop_path, **kwargs):
        super().__init__(**kwargs)
        self.shortcut = strides == 1 and in_channels == filters
        self.lite = lite
        self.conv_dw = convolution(in_channels, kernel_size, strides, pad_mode, in_channels)
        self.bn1 = batch_norm()
        self.se = keras.layers.Identity() if lite else SqueezeExcite(in_channels, max(1, in_channels // 4))
        self.conv_pw = convolution(filters, 1, 1, pad_mode)
        self.bn2 = batch_norm()
        self.drop_path = StochasticDepth(drop_path) if self.shortcut else None  # mirror: stochastic depth

    def call(self, x, training=False):
        y = activation(self.bn1(self.conv_dw(x), training=training), self.lite)
        y = self.bn2(self.conv_pw(self.se(y)), training=training)
        return x + self.drop_path(y, training=training) if self.shortcut else y


@keras.saving.register_keras_serializable("diptych", "efficientnet.InvertedResidual")
class InvertedResidual(keras.layers.Layer):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection without activation (MBConv).

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(
        self, in_channels, filters, kernel_size, strides, expansion, lite, pad_mode, batch_norm, drop_path, **kwargs
    ):
        super().__init__(**kwargs)
        hidden = in_channels * expansion
        self.shortcut = strides == 1 and in_channels == filters
        self.lite = lite
        self.conv_pw = convolution(hidden, 1, 1, pad_mode)
        self.bn1 = batch_norm()
        self.conv_dw = convolution(hidden, kernel_size, strides, pad_mode, hidden)
        self.bn2 = batch_norm()
        self.se = keras.layers.Identity() if lite else SqueezeExcite(hidden, max(1, in_channels // 4))
        self.conv_pwl = convolution(filters, 1, 1, pad_mode)
        self.bn3 = batch_norm()
        self.drop_path = StochasticDepth(drop_path) if self.shortcut else None

    def call(self, x, training=False):
        y = activation(self.bn1(self.conv_pw(x), training=training), self.lite)
        y = activation(self.bn2(self.conv_dw(y), training=training), self.lite)
        y = self.bn3(self.conv_pwl(self.se(y)), training=training)
        return x + self.drop_path(y, training=training) if self.shortcut else y


@keras.saving.register_keras_serializable("diptych")
class EfficientNet(Backbone):
    """The classifier.

    Args:
        width: multiplier of all channels.
        depth: multiplier of the repeats, rounded up.
        dropout: rate before the classifier.
        lite: the Lite variant: ReLU6, no squeeze-and-excitation, and stem, head, first and last stage are not scaled.
        stages: the unscaled stages, see ``STAGES``.
        pad_mode: "same" (the TensorFlow release) or "torch" (the same on both sides).
        bn_eps, bn_momentum: of batch normalisation: added to the variance, and the weight of the new value in the
            running statistics.
        drop_path: rate of stochastic depth in the last block.
        num_classes: classes K.
        in_chans: channels of the image.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no head and classifier; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    Raises: ValueError if ``pad_mode`` is neither.
    """

    def __init__(
        self,
        width: float,
        depth: float,
        dropout: float,
        lite: bool = False,
        stages: tuple[tuple[int, ...], ...] = STAGES,
        pad_mode: str = "same",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
        drop_path: float = DROP_PATH,
        num_classes: int = 1000,
        in_chans: int = 3,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if pad_mode not in ("same", "torch"):
            raise ValueError(f"pad_mode={pad_mode!r}; 'same' or 'torch' is allowed")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.swish = not lite
        batch_norm = functools.partial(BatchNormalization, epsilon=bn_eps, momentum=1 - bn_momentum)
        stem, head = (32, 1280) if lite else (make_divisible(32 * width), make_divisible(1280 * width))
        repeats = [
            n if lite and s in (0, len(stages) - 1) else math.ceil(n * depth) for s, (*_, n) in enumerate(stages)
        ]
        self.conv_stem = convolution(stem, 3, 2, pad_mode)
        self.bn1 = batch_norm()
        channels, blocks, self.stage_ends = stem, [], []  # stage_ends: the last stage at each stride
        for s, (expansion, kernel_size, stride, out, _) in enumerate(stages):
            out = make_divisible(out * width)
            if stride == 2:
                self.stage_ends.append(s - 1)
            stage = []
            for i in range(repeats[s]):
                rate = drop_path * (sum(repeats[:s]) + i) / sum(repeats)
                sizes = channels, out, kernel_size, stride if i == 0 else 1
                if expansion == 1:
                    stage.append(DepthwiseSeparable(*sizes, lite, pad_mode, batch_norm, rate))
                else:
                    stage.append(InvertedResidual(*sizes, expansion, lite, pad_mode, batch_norm, rate))
                channels = out
            blocks.append(keras.Sequential(stage))
        self.stage_ends.append(len(stages) - 1)
        self.blocks = blocks
        if not features_only:
            self.conv_head = convolution(head, 1, 1, pad_mode)
            self.bn2 = batch_norm()
            self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout and stochastic
            uniform = keras.initializers.RandomUniform(-(num_classes**-0.5), num_classes**-0.5)
            self.classifier = Dense(num_classes, kernel_initializer=uniform, bias_initializer="zeros")
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        stem, *stages = split(self.blocks, self.stage_ends)
        return [[self.conv_stem, self.bn1, *stem], *stages]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = activation(self.bn1(self.conv_stem(images), training=training), not self.swish), {}
        for s, stage in enumerate(self.blocks):
            x = stage(x, training=training)
            if s in self.stage_ends and self.stage_ends.index(s) in self.out_indices:
                maps[f"c{self.stage_ends.index(s) + 1}"] = x
        return maps

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        x = activation(self.bn1(self.conv_stem(images), training=training), not self.swish)
        for stage in self.blocks:
            x = stage(x, training=training)
        x = activation(self.bn2(self.conv_head(x), training=training), not self.swish)
        return self.classifier(self.dropout(tf.reduce_mean(x, (1, 2)), training=training))  # mirror: NHWC


def tf_efficientnet_b0(width=1.0, depth=1.0, dropout=0.2, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b1(width=1.0, depth=1.1, dropout=0.2, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b2(width=1.1, depth=1.2, dropout=0.3, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b3(width=1.2, depth=1.4, dropout=0.3, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b4(width=1.4, depth=1.8, dropout=0.4, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b5(width=1.6, depth=2.2, dropout=0.4, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b6(width=1.8, depth=2.6, dropout=0.5, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_b7(width=2.0, depth=3.1, dropout=0.5, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, **options)


def tf_efficientnet_lite0(width=1.0, depth=1.0, dropout=0.2, lite=True, **options) -> EfficientNet:
    return EfficientNet(width=width, depth=depth, dropout=dropout, lite=lite, **options)
