"""NAS-FPN: a pyramid whose connections were found by a search, stacked several times.

"NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection", 2019, arXiv:1904.07392.
Parameter names: mmdet ``necks/nas_fpn.py``, mmcv ``ops/merge_cells.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps and only needs their names.
"""

import math
from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.pooling import MaxPooling2D, max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest
from tf_impl.necks.fpn import level_names

__all__ = ["NASFPN", "NASFPNStage", "resize_or_pool"]


def resize_or_pool(x, size: tuple[int, int]):
    """Nearest neighbour where the map grows; max pooling by an integer factor where it shrinks.

    Args:
        x: (N, H, W, C).
        size: (h, w) of the output. A map that shrinks is padded with zeros on both sides to a multiple of it.

    Returns:
        (N, h, w, C).
    """
    height, width = map_size(x)
    if (height, width) == tuple(size):
        return x
    if (height, width) < tuple(size):
        return resize_nearest(x, size)
    window = math.ceil(height / size[0]), math.ceil(width / size[1])
    rows, columns = (n * w - old for n, w, old in zip(size, window, (height, width)))
    if rows or columns:
        x = tf.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))
    return max_pool2d(x, window)


def add_attended(x, other):
    """The second map plus the first, weighted channel by channel by the second's mean.  Twice (N, H, W, C) -> one."""
    return other + tf.sigmoid(tf.reduce_mean(other, (1, 2), True)) * x  # mirror: NHWC


@keras.saving.register_keras_serializable("diptych")
class MergedConv(keras.layers.Layer):
    """ReLU, 3x3 convolution and normalisation of a merged map.

    Args:
        channels: of the map.

    x: (N, H, W, C) -> (N, H, W, C).
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.out_conv = ConvModule(
            channels, 3, padding=1, use_bias=True, norm="batch", activation=None, kernel_initializer="lecun_uniform"
        )

    def call(self, x, training=False):
        return self.out_conv(tf.nn.relu(x), training=training)


@keras.saving.register_keras_serializable("diptych")
class NASFPNStage(keras.layers.Layer):
    """The pyramid that was found: nine merges of two maps, named after their levels.

    Args:
        channels: of all levels.

    Inputs: five maps (N, H_i, W_i, C), fine to coarse.
    Returns: five maps of the same shapes.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.gp_64_4 = MergedConv(channels)
        self.sum_44_4 = MergedConv(channels)
        self.sum_43_3 = MergedConv(channels)
        self.sum_34_4 = MergedConv(channels)
        self.sum_55_5 = MergedConv(channels)
        self.sum_77_7 = MergedConv(channels)
        self.gp_75_6 = MergedConv(channels)

    def call(self, levels, training=False):
        p3, p4, p5, p6, p7 = levels
        sizes = [map_size(x) for x in levels]
        attended = self.gp_64_4(add_attended(resize_or_pool(p6, sizes[1]), p4), training=training)
        middle = self.sum_44_4(attended + p4, training=training)
        p3 = self.sum_43_3(resize_or_pool(middle, sizes[0]) + p3, training=training)
        p4 = self.sum_34_4(resize_or_pool(p3, sizes[1]) + middle, training=training)
        merged = add_attended(resize_or_pool(p4, sizes[2]), resize_or_pool(p3, sizes[2]))
        p5 = self.sum_55_5(p5 + merged, training=training)
        merged = add_attended(resize_or_pool(p5, sizes[4]), resize_or_pool(middle, sizes[4]))
        p7 = self.sum_77_7(p7 + merged, training=training)
        merged = add_attended(resize_or_pool(p7, sizes[3]), resize_or_pool(p5, sizes[3]))
        p6 = self.gp_75_6(merged, training=training)
        return p3, p4, p5, p6, p7


@keras.saving.register_keras_serializable("diptych")
class NASFPN(keras.layers.Layer):
    """Lateral 1x1 convolutions, two coarser levels by convolution and pooling, then the stages.

    Args:
        in_channels: channels of the maps C3 to C5, by name.
        out_channels: channels of the levels.
        stack_times: number of stages.

    Inputs: dict of maps (N, H_i, W_i, C_i), those that are not used included; C5 has at least 4 rows and columns.
    Returns: dict of levels (N, H_i, W_i, out_channels), "p3" to "p7".
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, stack_times: int = 7, **kwargs):
        super().__init__(**kwargs)
        self.used = tuple(in_channels)  # mirror: only needs their names
        lateral = dict(norm="batch", activation=None, kernel_initializer="lecun_uniform")
        self.lateral_convs = [ConvModule(out_channels, 1, **lateral) for _ in self.used]
        self.extra_downsamples = [
            keras.Sequential([ConvModule(out_channels, 1, **lateral), MaxPooling2D(2)]) for _ in range(2)
        ]
        self.fpn_stages = [NASFPNStage(out_channels) for _ in range(stack_times)]

    def call(self, maps, training=False):
        levels = [conv(maps[name], training=training) for conv, name in zip(self.lateral_convs, self.used)]
        for downsample in self.extra_downsamples:
            levels.append(downsample(levels[-1], training=training))
        for stage in self.fpn_stages:
            levels = stage(levels, training=training)
        return dict(zip(level_names(self.used, len(levels)), levels))
