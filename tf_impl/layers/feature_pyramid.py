"""Feature pyramid networks (FPN) under the names of torchvision and of mmdet.

"Feature Pyramid Networks for Object Detection", 2016, arXiv:1612.03144; the levels P6 and P7 are from RetinaNet,
arXiv:1708.02002. Parameter names: torchvision ``ops/feature_pyramid_network.py`` (BSD-3); mmdet ``necks/fpn.py`` and
mmcv ``ConvModule`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- PyTorch fills tensors that exist; Keras builds lazily, so a layer is told its initializer before it builds.
"""

import keras
import tensorflow as tf

from .convolution import Conv2d
from .normalization import BatchNorm2d, GroupNorm
from .resize import resize_nearest

__all__ = ["FPN", "ConvModule", "FeaturePyramidNetwork", "LastLevelP6P7"]


class ConvModule(keras.layers.Layer):
    """Convolution, normalisation, ReLU; the last two as asked (mmcv).

    Args:
        in_channels, out_channels, kernel_size, stride, padding: of the convolution; no bias before a normalisation.
        norm: None, "batch" or "group".
        groups: groups of the group normalisation.
        relu: whether a ReLU follows.

    x: (N, H, W, C) -> (N, H', W', out_channels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        norm: str | None = None,
        groups: int = 32,
        relu: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if norm not in (None, "batch", "group"):
            raise ValueError(f"norm={norm!r} must be None, 'batch' or 'group'")
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=norm is None)
        self.norm, self.relu = norm, relu
        if norm == "batch":
            self.bn = BatchNorm2d(out_channels, eps=1e-5, momentum=0.1)
        elif norm == "group":
            self.gn = GroupNorm(groups, out_channels, eps=1e-5)

    def call(self, x, training=False):
        y = self.conv(x)
        if self.norm is not None:
            y = self.bn(y, training=training) if self.norm == "batch" else self.gn(y)
        return tf.nn.relu(y) if self.relu else y


class LastLevelP6P7(keras.layers.Layer):
    """Two levels more, each a 3x3 convolution of stride 2; a ReLU before the second (torchvision).

    Args:
        in_channels: channels of C5 or of P5.
        out_channels: channels of the levels.

    x: (N, H, W, C) -> [P6, P7].
    """

    def __init__(self, in_channels: int, out_channels: int, **kwargs):
        super().__init__(**kwargs)
        self.p6 = Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = Conv2d(out_channels, out_channels, 3, 2, 1)

    def call(self, x):
        p6 = self.p6(x)
        return [p6, self.p7(tf.nn.relu(p6))]


class FeaturePyramidNetwork(keras.layers.Layer):
    """Lateral 1x1 convolutions, addition from the top down, 3x3 convolutions (torchvision's names).

    Args:
        in_channels: channels of every map, fine to coarse.
        out_channels: channels of the levels.
        extra: what makes further levels: None; "pool", every second cell of the last level; "on_input", P6 and P7 from
            the last map; "on_output", P6 and P7 from the last level.

    Inputs: maps (N, H_i, W_i, C_i), fine to coarse.
    Returns: list of (N, H_i, W_i, out_channels), fine to coarse; one more for "pool", two for "on_input" and
        "on_output".
    Raises: ValueError if there is no such ``extra``.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int = 256, extra: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if extra not in (None, "pool", "on_input", "on_output"):
            raise ValueError(f"extra={extra!r} must be None, 'pool', 'on_input' or 'on_output'")
        self.extra = extra
        self.inner_blocks = [keras.Sequential([Conv2d(c, out_channels, 1)]) for c in in_channels]
        self.layer_blocks = [keras.Sequential([Conv2d(out_channels, out_channels, 3, 1, 1)]) for _ in in_channels]
        if extra in ("on_input", "on_output"):
            self.extra_blocks = LastLevelP6P7(in_channels[-1] if extra == "on_input" else out_channels, out_channels)
        for layer in self._flatten_layers():
            if isinstance(layer, Conv2d):
                # mirror: PyTorch fills tensors
                layer.kernel_initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
                layer.bias_initializer = "zeros"

    def call(self, *maps):
        inner = [block(x) for block, x in zip(self.inner_blocks, maps)]
        for i in range(len(inner) - 1, 0, -1):
            inner[i - 1] = inner[i - 1] + resize_nearest(inner[i], tuple(inner[i - 1].shape[1:3]))  # mirror: NHWC
        levels = [block(x) for block, x in zip(self.layer_blocks, inner)]
        if self.extra == "pool":
            levels.append(levels[-1][:, ::2, ::2])
        elif self.extra is not None:
            levels += self.extra_blocks(maps[-1] if self.extra == "on_input" else levels[-1])
        return levels


class FPN(keras.layers.Layer):
    """The same with mmdet's names, and with its options.

    Args:
        in_channels: channels of every map that is used, fine to coarse.
        out_channels: channels of the levels.
        num_outs: number of levels.
        extra: what makes the levels beyond the maps: "pool", every second cell of the level before; otherwise 3x3
            convolutions of stride 2, the first "on_input", of the last map, "on_lateral", of its sum before the 3x3
            convolution, or "on_output", of the last level.
        relu_before_extra: ReLU before the second of these convolutions and those after it.
        norm: normalisation behind every convolution, see :class:`ConvModule`.
        groups: groups of the group normalisation.

    Inputs: maps (N, H_i, W_i, C_i), fine to coarse.
    Returns: list of (N, H_i, W_i, out_channels), fine to coarse.
    Raises: ValueError if there is no such ``extra``.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int = 256,
        num_outs: int = 5,
        extra: str = "pool",
        relu_before_extra: bool = False,
        norm: str | None = None,
        groups: int = 32,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if extra not in ("pool", "on_input", "on_lateral", "on_output"):
            raise ValueError(f"extra={extra!r} must be 'pool', 'on_input', 'on_lateral' or 'on_output'")
        self.num_outs, self.extra, self.relu_before_extra = num_outs, extra, relu_before_extra
        options = dict(norm=norm, groups=groups, relu=False)
        self.lateral_convs = [ConvModule(c, out_channels, 1, **options) for c in in_channels]
        convs = [ConvModule(out_channels, out_channels, 3, 1, 1, **options) for _ in in_channels]
        if extra != "pool":
            for i in range(num_outs - len(in_channels)):
                channels = in_channels[-1] if i == 0 and extra == "on_input" else out_channels
                convs.append(ConvModule(channels, out_channels, 3, 2, 1, **options))
        self.fpn_convs = convs
        for layer in self._flatten_layers():
            if isinstance(layer, Conv2d):
                layer.kernel_initializer, layer.bias_initializer = "glorot_uniform", "zeros"

    def call(self, *maps, training=False):
        laterals = [conv(x, training=training) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize_nearest(laterals[i], tuple(laterals[i - 1].shape[1:3]))
        levels = [conv(x, training=training) for conv, x in zip(self.fpn_convs, laterals)]
        if self.extra == "pool":
            while len(levels) < self.num_outs:
                levels.append(levels[-1][:, ::2, ::2])
            return levels
        x = {"on_input": maps[-1], "on_lateral": laterals[-1], "on_output": levels[-1]}[self.extra]
        for i in range(len(laterals), self.num_outs):
            x = tf.nn.relu(x) if self.relu_before_extra and i > len(laterals) else x
            x = self.fpn_convs[i](x, training=training)
            levels.append(x)
        return levels
