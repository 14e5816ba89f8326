"""Darknet-53: stages that halve the map, each with bottlenecks of a 1x1 and a 3x3 convolution.

"YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767, table 1.
Parameter names: mmdet ``backbones/darknet.py`` (Apache-2.0), which has no classifier.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import keras
import tensorflow as tf

from tf_impl.layers.activation import LeakyReLU
from tf_impl.layers.backbone import Backbone
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.linear import Dense
from tf_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "Darknet", "conv_leaky", "darknet53"]


def conv_leaky(filters: int, kernel_size: int, strides: int = 1) -> ConvModule:
    """Convolution that keeps the size at stride 1, batch normalisation, leaky ReLU of slope 0.1."""
    return ConvModule(filters, kernel_size, strides, kernel_size // 2, norm="batch", activation=LeakyReLU(0.1))


@keras.saving.register_keras_serializable("diptych")
class DarknetBottleneck(keras.layers.Layer):
    """1x1 convolution to half the width, 3x3 convolution back, shortcut.  (N, H, W, C) -> the same shape."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = conv_leaky(channels // 2, 1)
        self.conv2 = conv_leaky(channels, 3)

    def call(self, x, training=False):
        return x + self.conv2(self.conv1(x, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class DarknetStage(keras.layers.Layer):
    """A convolution that halves the map, and bottlenecks.  (N, H, W, C) -> (N, H / 2, W / 2, filters)."""

    def __init__(self, filters: int, depth: int, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.conv = conv_leaky(filters, 3, 2)
        for i in range(depth):
            setattr(self, f"res{i}", DarknetBottleneck(filters))

    def call(self, x, training=False):
        x = self.conv(x, training=training)
        for i in range(self.depth):
            x = getattr(self, f"res{i}")(x, training=training)
        return x


@keras.saving.register_keras_serializable("diptych")
class Darknet(Backbone):
    """The classifier.

    Args:
        depths: bottlenecks of the five stages.
        widths: channels of the first convolution and of the stages.
        num_classes: classes K.
        in_chans: channels of the image.
        norm_eval: batch normalisation uses its running statistics in training, too.
        frozen_stages: -1 trains all; k freezes the layers up to the map of index k: no gradient, running statistics.
        features_only: no classifier; return the feature maps instead of logits.
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
        self.conv1 = conv_leaky(widths[0], 3)
        for i, depth in enumerate(depths):
            setattr(self, f"conv_res_block{i + 1}", DarknetStage(widths[i + 1], depth))
        if not features_only:
            self.fc = Dense(num_classes)
        self.known_channels = {f"c{i + 1}": widths[i + 1] for i in self.out_indices}
        self.freeze(norm_eval, frozen_stages)

    def levels(self) -> list:
        stages = [getattr(self, f"conv_res_block{i}") for i in range(1, 6)]
        return [[self.conv1, stages[0]], *([stage] for stage in stages[1:])]

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
        return maps if self.features_only else self.fc(tf.reduce_mean(maps["c5"], (1, 2)))  # mirror: NHWC


def darknet53(depths=(1, 2, 8, 8, 4), widths=(32, 64, 128, 256, 512, 1024), **options) -> Darknet:
    return Darknet(depths=depths, widths=widths, **options)
