"""DLA: trees of blocks whose roots combine the outputs of all their branches.

"Deep Layer Aggregation", 2017, arXiv:1707.06484.
Parameter names: ucbdrive/dla ``dla.py`` (BSD-3).
What to look at: a tree of depth 2 projects its input without using the result; checkpoints contain these projections.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.backbone import Backbone
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = ["DLA", "ClassificationCriterion", "ClassificationPostProcess", "dla34"]

CONV = functools.partial(Conv2D, kernel_initializer=KaimingNormal, bias_initializer="zeros")


def conv_bn(filters: int, kernel_size: int, strides: int = 1) -> list[keras.layers.Layer]:
    """A convolution that keeps the size at stride 1, and its normalisation."""
    conv = CONV(filters, kernel_size, strides=strides, padding=kernel_size // 2, use_bias=False)
    return [conv, BatchNormalization()]


@keras.saving.register_keras_serializable("diptych")
class DLABlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut.

    Args:
        filters: width.
        strides: of the first convolution.

    Inputs: ``x`` (N, H, W, C); ``shortcut``, the tensor that is added, or None for ``x``.
    Returns: (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.conv1, self.bn1 = conv_bn(filters, 3, strides)
        self.conv2, self.bn2 = conv_bn(filters, 3)

    def call(self, x, shortcut=None, training=False):
        y = tf.nn.relu(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        return tf.nn.relu(y + (x if shortcut is None else shortcut))


@keras.saving.register_keras_serializable("diptych")
class DLARoot(keras.layers.Layer):
    """A 1x1 convolution over all branches.  List of (N, H, W, C) -> (N, H, W, filters)."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.bn = conv_bn(filters, 1)

    def call(self, branches, training=False):
        return tf.nn.relu(self.bn(self.conv(tf.concat(branches, -1)), training=training))


@keras.saving.register_keras_serializable("diptych")
class DLATree(keras.layers.Layer):
    """Two blocks and a root, or two trees one level less deep, the second of which has the root (figure 3).

    Args:
        depth: 1 for blocks.
        in_channels, filters: widths.
        strides: 2 halves the map.
        level_root: whether the halved input is a branch too.

    Inputs: ``x`` (N, H, W, C); ``branches``: list of further maps for the root.
    Returns: (N, ceil(H / strides), ceil(W / strides), filters).
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        filters: int,
        strides: int = 1,
        level_root: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth, self.level_root = depth, level_root
        self.downsample = MaxPooling2D(strides) if strides > 1 else None
        if depth == 1:
            self.tree1 = DLABlock(filters, strides)
            self.tree2 = DLABlock(filters)
            self.root = DLARoot(filters)
        else:
            self.tree1 = DLATree(depth - 1, in_channels, filters, strides)
            self.tree2 = DLATree(depth - 1, filters, filters)
        self.project = None
        if in_channels != filters:
            self.project = keras.Sequential(conv_bn(filters, 1))

    def call(self, x, branches=(), training=False):
        bottom = x if self.downsample is None else self.downsample(x)
        shortcut = bottom if self.project is None else self.project(bottom, training=training)
        branches = [*branches, bottom] if self.level_root else list(branches)
        if self.depth > 1:  # the shortcut is not used
            first = self.tree1(x, training=training)
            return self.tree2(first, [*branches, first], training=training)
        first = self.tree1(x, shortcut, training=training)
        return self.root([self.tree2(first, training=training), first, *branches], training=training)


@keras.saving.register_keras_serializable("diptych")
class DLA(Backbone):
    """The classifier.

    Args:
        depths: of the six levels: convolutions in the first two, depth of the trees in the others.
        widths: channels of the levels.
        num_classes: classes K.
        in_chans: channels of the image.
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classification; return the feature maps instead of logits. The classifier stays.
        out_indices: which of the maps at strides 2, 4, 8, 16, 32 (0 to 4) are returned with ``features_only``.

    Inputs: (N, H, W, in_chans) float.
    Returns: logits (N, K); with ``features_only`` a dict of maps ``"c1"`` to ``"c5"``.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        features_only: bool = False,
        out_indices: tuple[int, ...] = (0, 1, 2, 3, 4),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: in_chans})
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        self.base_layer = keras.Sequential([*conv_bn(widths[0], 7), keras.layers.ReLU()])
        channels = widths[0]
        for i in range(2):
            convs = []
            for j in range(depths[i]):
                convs += [*conv_bn(widths[i], 3, 1 if i == 0 or j else 2), keras.layers.ReLU()]
                channels = widths[i]
            setattr(self, f"level{i}", keras.Sequential(convs))
        for i in range(2, 6):
            setattr(self, f"level{i}", DLATree(depths[i], channels, widths[i], 2, level_root=i > 2))
            channels = widths[i]
        self.fc = CONV(num_classes, 1)
        self.fc.build((None, None, None, channels))  # not called with ``features_only``
        names = [f"c{i + 1}" for i in self.out_indices]
        self.known_channels = {name: widths[i + 1] for name, i in zip(names, self.out_indices)}
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        return [
            [self.base_layer, self.level0, self.level1],
            *([getattr(self, f"level{i}")] for i in range(2, 6)),
        ]

    def forward_features(self, images, training=False) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = images, {}
        for i, level in enumerate(self.levels()):
            for part in level:
                x = part(x, training=training)
            if i in self.out_indices:
                maps[f"c{i + 1}"] = x
        return maps

    def call(self, images, training=False):
        maps = self.forward_features(images, training)
        if self.features_only:
            return maps
        return self.fc(tf.reduce_mean(maps["c5"], (1, 2), keepdims=True))[:, 0, 0]  # mirror: NHWC


def dla34(depths=(1, 1, 1, 2, 2, 1), widths=(16, 32, 64, 128, 256, 512), **options) -> DLA:
    return DLA(depths=depths, widths=widths, **options)
