"""GoogLeNet (Inception v1), with batch normalisation: blocks of four branches, and two auxiliary classifiers.

"Going Deeper with Convolutions", 2014, arXiv:1409.4842; batch normalisation: 2015, arXiv:1502.03167.
Parameter names: torchvision ``models/googlenet.py`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch; the auxiliary heads flatten their maps as (C, H, W) in both.
- Dropout follows the framework's own generator.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.linear import Dense
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D, adaptive_avg_pool2d, max_pool2d
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "AuxiliaryHead",
    "BasicConv2d",
    "ClassificationPostProcess",
    "GoogLeNet",
    "GoogLeNetCriterion",
    "InceptionBlock",
    "googlenet",
    "scaled",
    "to_inception_range",
]

# widths of the 1x1 branch, reduction and 3x3, reduction and "5x5", projection after the pool (table 1)
STAGES = (
    {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
    },
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    },
)
AUXILIARY = {"aux1": 0.3, "aux2": 0.3}  # section 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def scaled(width: float, *channels: int) -> tuple[int, ...]:
    """Channels times the width multiplier, rounded down."""
    return tuple(int(c * width) for c in channels)


def first_blocks(stages, layers) -> tuple[tuple[str, ...], ...]:
    """The names of the blocks that a model has.

    Args:
        stages: for every stage of the published network, its blocks by name.
        layers: how many blocks of each stage, counted from the first.

    Raises:
        ValueError: if a stage has fewer, or is left without any.
    """
    if len(layers) != len(stages) or not all(0 < n <= len(blocks) for n, blocks in zip(layers, stages)):
        raise ValueError(f"layers are 1 to {[len(blocks) for blocks in stages]} blocks; layers={list(layers)}")
    return tuple(tuple(blocks)[:n] for n, blocks in zip(layers, stages))


def to_inception_range(images):
    """Convert images normalised by ImageNet's mean and deviation to 2 x - 1 of [0, 1].  (N, H, W, 3)."""
    scale = tf.constant([std / 0.5 for std in STD], images.dtype)
    shift = tf.constant([(mean - 0.5) / 0.5 for mean in MEAN], images.dtype)
    return images * scale + shift


@keras.saving.register_keras_serializable("diptych")
class BasicConv2d(keras.layers.Layer):
    """Convolution, batch normalisation, ReLU.

    Args:
        filters, kernel_size, strides, padding, kernel_initializer: of the convolution.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int = 1,
        padding: int | tuple[int, int] = 0,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.conv = Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_initializer=kernel_initializer,
        )
        self.bn = BatchNormalization(epsilon=1e-3)

    def call(self, x, training=False):
        return tf.nn.relu(self.bn(self.conv(x), training=training))


CONV = functools.partial(BasicConv2d, kernel_initializer=SmallNormal)


@keras.saving.register_keras_serializable("diptych")
class InceptionBlock(keras.layers.Layer):
    """Four branches side by side: 1x1, 3x3, "5x5", max pool (figure 2 b).

    Args:
        widths: see ``BLOCKS``; the 1st, 3rd, 5th and 6th are concatenated.
        five_by_five: kernel of the third branch as in the paper; the published weights have 3x3 there.

    x: (N, H, W, C) -> (N, H, W, C').
    """

    def __init__(self, widths: tuple[int, ...], five_by_five: bool = False, **kwargs):
        super().__init__(**kwargs)
        one, reduced3, three, reduced5, five, projected = widths
        kernel = 5 if five_by_five else 3
        self.branch1 = CONV(one, 1)
        self.branch2 = keras.Sequential([CONV(reduced3, 1), CONV(three, 3, padding=1)])
        self.branch3 = keras.Sequential([CONV(reduced5, 1), CONV(five, kernel, padding=kernel // 2)])
        self.branch4 = keras.Sequential([MaxPooling2D(3, 1, padding=1), CONV(projected, 1)])

    def call(self, x, training=False):
        branches = self.branch1, self.branch2, self.branch3, self.branch4
        return tf.concat([branch(x, training=training) for branch in branches], -1)


@keras.saving.register_keras_serializable("diptych", "googlenet.AuxiliaryHead")
class AuxiliaryHead(keras.layers.Layer):
    """Classifier of an inner map: average over 4x4 bins, 1x1 convolution, two fully connected layers.

    Args:
        channels: width of the convolution.
        hidden: width between the fully connected layers.
        num_classes: classes K.
        dropout: rate before the last layer.

    x: (N, H, W, C) -> logits (N, K).
    """

    def __init__(self, channels: int, hidden: int, num_classes: int, dropout: float, **kwargs):
        super().__init__(**kwargs)
        self.conv = CONV(channels, 1)
        self.width = 16 * channels
        self.fc1 = Dense(hidden, kernel_initializer=SmallNormal)
        self.fc2 = Dense(num_classes, kernel_initializer=SmallNormal)
        self.dropout = keras.layers.Dropout(dropout)  # mirror: Dropout follows

    def call(self, x, training=False):
        # mirror: flatten their maps
        x = tf.transpose(self.conv(adaptive_avg_pool2d(x, 4), training=training), (0, 3, 1, 2))
        x = tf.reshape(x, (-1, self.width))
        return self.fc2(self.dropout(tf.nn.relu(self.fc1(x)), training=training))


@keras.saving.register_keras_serializable("diptych")
class GoogLeNet(Backbone):
    """The classifier.

    Args:
        layers: blocks of the three stages, at most those of the default.
        width: multiplier of all channels.
        num_classes: classes K.
        in_chans: channels of the image.
        aux_logits: whether there are auxiliary heads after blocks 4a and 4d. They also run in evaluation mode, so that
            the loss is the same function in both; build the model without them if only its logits are needed.
        transform_input: whether images normalised by ImageNet's mean and deviation are converted to 2 x - 1, which the
            weights expect.
        five_by_five: see :class:`InceptionBlock`.
        dropout, dropout_aux: rates before the last layer of the classifier and of the auxiliary heads.
        norm: "batch", or "frozen" (a fixed scale and shift).
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifiers; return the feature maps instead of logits.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: dict of logits (N, K): ``"logits"``, ``"aux1"``, ``"aux2"``; without auxiliary heads only the tensor; with
        ``features_only`` a dict of maps ``"c2"``, ``"c3"``, ... at strides 4, 8, ....
    """

    def __init__(
        self,
        layers: tuple[int, int, int] = (2, 5, 2),
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        aux_logits: bool = True,
        transform_input: bool = False,
        five_by_five: bool = False,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        norm: str = "batch",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if transform_input and in_chans != 3:
            raise ValueError(f"transform_input needs in_chans=3; in_chans={in_chans}")
        self.stages = first_blocks(STAGES, layers)
        has_heads = aux_logits and not features_only
        if has_heads and layers[1] < 4:
            raise ValueError(f"aux_logits=True needs block 4d: layers[1] of 4 or 5; layers={list(layers)}")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.transform_input, self.features_only, self.out_indices = transform_input, features_only, tuple(out_indices)
        c64, c128, c1024, channels = scaled(width, 64, 128, 1024, 192)
        self.conv1 = CONV(c64, 7, 2, 3)
        self.conv2 = CONV(c64, 1)
        self.conv3 = CONV(channels, 3, padding=1)
        for blocks, names in zip(STAGES, self.stages, strict=True):
            for name in names:
                widths = scaled(width, *blocks[name])
                setattr(self, f"inception{name}", InceptionBlock(widths, five_by_five))
        self.aux1 = self.aux2 = None
        if has_heads:
            self.aux1 = AuxiliaryHead(c128, c1024, num_classes, dropout_aux)
            self.aux2 = AuxiliaryHead(c128, c1024, num_classes, dropout_aux)
        if not features_only:
            self.dropout = keras.layers.Dropout(dropout)
            self.fc = Dense(num_classes, kernel_initializer=SmallNormal)
        self.freeze(norm_eval, frozen_stages, norm)

    def levels(self) -> list:
        blocks = ([getattr(self, f"inception{name}") for name in names] for names in self.stages)
        return [[self.conv1], [self.conv2, self.conv3], *blocks]

    def _maps(self, images, training=False) -> dict:
        """The maps that heads and detectors read, by block name."""
        maps = {"conv1": self.conv1(to_inception_range(images) if self.transform_input else images, training=training)}
        x = self.conv2(max_pool2d(maps["conv1"], 3, 2, ceil_mode=True), training=training)
        x = maps["conv3"] = self.conv3(x, training=training)
        for names, size in zip(self.stages, (3, 3, 2), strict=True):
            x = max_pool2d(x, size, 2, ceil_mode=True)
            for name in names:
                x = maps[name] = getattr(self, f"inception{name}")(x, training=training)
        return maps

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        maps = self._maps(images, training)
        ends = "conv1", "conv3", *(names[-1] for names in self.stages)  # last map at each stride, 2 to 32
        return {f"c{i + 1}": maps[name] for i, name in enumerate(ends) if i in self.out_indices}

    def call(self, images, training=False):
        if self.features_only:
            return self.forward_features(images, training)
        maps = self._maps(images, training)
        x = tf.reduce_mean(maps[self.stages[-1][-1]], (1, 2))  # mirror: NHWC
        logits = self.fc(self.dropout(x, training=training))
        if self.aux1 is None:
            return logits
        return {
            "logits": logits,
            "aux1": self.aux1(maps["4a"], training=training),
            "aux2": self.aux2(maps["4d"], training=training),
        }


@keras.saving.register_keras_serializable("diptych")
class GoogLeNetCriterion(ClassificationCriterion):
    """Cross-entropy of the logits, plus 0.3 of that of each auxiliary head.

    Args:
        label_smoothing, weight: see :class:`ClassificationCriterion`.
        auxiliary: weight of each auxiliary output by its key; ``{}`` for a model without auxiliary heads.
    """

    def __init__(self, label_smoothing: float = 0.0, weight=None, auxiliary=AUXILIARY, **kwargs):
        super().__init__(label_smoothing, weight, auxiliary, **kwargs)


def googlenet(**options) -> GoogLeNet:
    return GoogLeNet(**options)
