"""Feature pyramid networks (FPN) under the names of torchvision and of mmdet.

"Feature Pyramid Networks for Object Detection", 2016, arXiv:1612.03144; the levels P6 and P7 are from RetinaNet,
arXiv:1708.02002. Parameter names: torchvision ``ops/feature_pyramid_network.py`` (BSD-3); mmdet ``necks/fpn.py``
(Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps and only needs their names.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.resize import map_size, resize_nearest

__all__ = ["FPN", "FeaturePyramidNetwork", "LastLevelP6P7", "level_names", "top_down"]


def level_names(maps, count: int) -> list[str]:
    """Names of ``count`` levels, the first of which belong to the maps: "c3" to "p3", and so on."""
    first = int(next(iter(maps))[1:])
    return [f"p{first + i}" for i in range(count)]


def top_down(maps: list) -> list:
    """Every map plus the next coarser sum, enlarged to its size (nearest neighbour); fine to coarse."""
    sums = list(maps)
    for i in range(len(sums) - 1, 0, -1):
        sums[i - 1] = sums[i - 1] + resize_nearest(sums[i], map_size(sums[i - 1]))  # mirror: NHWC
    return sums


@keras.saving.register_keras_serializable("diptych")
class LastLevelP6P7(keras.layers.Layer):
    """Two extra levels, each a 3x3 convolution of stride 2; a ReLU before the second (torchvision).

    Args:
        filters: channels of the levels.

    x: (N, H, W, C) -> [P6, P7].
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        options = dict(strides=2, padding=1, kernel_initializer="lecun_uniform", bias_initializer="zeros")
        self.p6 = Conv2D(filters, 3, **options)
        self.p7 = Conv2D(filters, 3, **options)

    def call(self, x):
        p6 = self.p6(x)
        return [p6, self.p7(tf.nn.relu(p6))]


@keras.saving.register_keras_serializable("diptych")
class FeaturePyramidNetwork(keras.layers.Layer):
    """Lateral 1x1 convolutions, addition from the top down, 3x3 convolutions (torchvision's names).

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse; such as ``{"c3": 512, ...}``.
        out_channels: channels of the levels.
        extra: how further levels are made: None; "pool", every second cell of the last level; "on_input", P6 and P7
            from the last map; "on_output", P6 and P7 from the last level.

    Inputs: dict of maps (N, H_i, W_i, C_i), those that are not used included.
    Returns: dict of levels (N, H_i, W_i, out_channels), fine to coarse, "p3" for "c3" and so on; one more for "pool",
        two for "on_input" and "on_output".
    Raises: ValueError if ``extra`` is unknown.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, extra: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if extra not in (None, "pool", "on_input", "on_output"):
            raise ValueError(f"extra={extra!r} must be None, 'pool', 'on_input' or 'on_output'")
        self.extra, self.used = extra, tuple(in_channels)  # mirror: only needs their names
        options = dict(kernel_initializer="lecun_uniform", bias_initializer="zeros")
        self.inner_blocks = [keras.Sequential([Conv2D(out_channels, 1, **options)]) for _ in self.used]
        self.layer_blocks = [keras.Sequential([Conv2D(out_channels, 3, padding=1, **options)]) for _ in self.used]
        if extra in ("on_input", "on_output"):
            self.extra_blocks = LastLevelP6P7(out_channels)

    def call(self, maps):
        maps = [maps[name] for name in self.used]
        inner = top_down([block(x) for block, x in zip(self.inner_blocks, maps)])
        levels = [block(x) for block, x in zip(self.layer_blocks, inner)]
        if self.extra == "pool":
            levels.append(levels[-1][:, ::2, ::2])
        elif self.extra is not None:
            levels += self.extra_blocks(maps[-1] if self.extra == "on_input" else levels[-1])
        return dict(zip(level_names(self.used, len(levels)), levels))


@keras.saving.register_keras_serializable("diptych")
class FPN(keras.layers.Layer):
    """The same with mmdet's names, and with its options.

    Args:
        in_channels: channels of every map that is used, by name, fine to coarse; such as ``{"c3": 512, ...}``.
        out_channels: channels of the levels.
        num_outs: number of levels.
        extra: how the levels beyond the maps are made: "pool", every second cell of the level before; otherwise 3x3
            convolutions of stride 2, the first "on_input", of the last map, "on_lateral", of its sum before the 3x3
            convolution, or "on_output", of the last level.
        relu_before_extra: ReLU before the second of these convolutions and those after it.
        norm: normalisation after every convolution, see :class:`ConvModule`.
        norm_groups: groups of the group normalisation.

    Inputs: dict of maps (N, H_i, W_i, C_i), those that are not used included.
    Returns: dict of levels (N, H_i, W_i, out_channels), fine to coarse, "p3" for "c3" and so on.
    Raises: ValueError if ``extra`` is unknown.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        out_channels: int = 256,
        num_outs: int = 5,
        extra: str = "pool",
        relu_before_extra: bool = False,
        norm=None,
        norm_groups: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if extra not in ("pool", "on_input", "on_lateral", "on_output"):
            raise ValueError(f"extra={extra!r} must be 'pool', 'on_input', 'on_lateral' or 'on_output'")
        self.num_outs, self.extra, self.relu_before_extra = num_outs, extra, relu_before_extra
        self.used = tuple(in_channels)
        options = dict(norm=norm, norm_groups=norm_groups, activation=None, kernel_initializer="glorot_uniform")
        self.lateral_convs = [ConvModule(out_channels, 1, **options) for _ in self.used]
        convs = [ConvModule(out_channels, 3, padding=1, **options) for _ in self.used]
        if extra != "pool":
            for _ in range(num_outs - len(self.used)):
                convs.append(ConvModule(out_channels, 3, strides=2, padding=1, **options))
        self.fpn_convs = convs

    def call(self, maps, training=False):
        maps = [maps[name] for name in self.used]
        laterals = top_down([conv(x, training=training) for conv, x in zip(self.lateral_convs, maps)])
        levels = [conv(x, training=training) for conv, x in zip(self.fpn_convs, laterals)]
        if self.extra == "pool":
            while len(levels) < self.num_outs:
                levels.append(levels[-1][:, ::2, ::2])
        else:
            x = {"on_input": maps[-1], "on_lateral": laterals[-1], "on_output": levels[-1]}[self.extra]
            for i in range(len(laterals), self.num_outs):
                x = tf.nn.relu(x) if self.relu_before_extra and i > len(laterals) else x
                x = self.fpn_convs[i](x, training=training)
                levels.append(x)
        return dict(zip(level_names(self.used, len(levels)), levels))
