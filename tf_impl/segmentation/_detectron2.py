"""A residual network and a pyramid of its maps, under the names of detectron2.

Parameter names: facebookresearch/detectron2 ``modeling/backbone/{resnet,fpn}.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the widths of the maps.
"""

import functools

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import KaimingNormal
from tf_impl.layers.normalization import choose_norm
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest

__all__ = ["ConvNorm", "ResNetFPN", "TopBlock"]

UNIFORM = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
CONV = functools.partial(Conv2D, kernel_initializer=UNIFORM, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class ConvNorm(Conv2D):
    """Convolution without bias, and its normalisation.  x: (N, H, W, C) -> (N, h, w, filters)."""

    def __init__(self, filters: int, kernel_size: int, strides: int = 1, padding: int = 0, norm="frozen", **kwargs):
        super().__init__(
            filters, kernel_size, strides, padding, use_bias=False, kernel_initializer=KaimingNormal, **kwargs
        )
        self.norm = choose_norm(norm)()

    def call(self, x, training=False):
        return self.norm(super().call(x), training=training)


@keras.saving.register_keras_serializable("diptych")
class BottleneckBlock(keras.layers.Layer):
    """1x1 reduction with the stride, 3x3, 1x1 expansion by four, and a shortcut.

    Args:
        width: channels of the 3x3 convolution.
        strides: of the block.
        project: whether the shortcut has a projection.
        norm: see :func:`choose_norm`.

    x: (N, H, W, C) -> (N, ceil(H / strides), ceil(W / strides), 4 * width).
    """

    def __init__(self, width: int, strides: int, project: bool, norm: str, **kwargs):
        super().__init__(**kwargs)
        self.shortcut = ConvNorm(4 * width, 1, strides, norm=norm) if project else None
        self.conv1 = ConvNorm(width, 1, strides, norm=norm)
        self.conv2 = ConvNorm(width, 3, 1, 1, norm)
        self.conv3 = ConvNorm(4 * width, 1, norm=norm)

    def call(self, x, training=False):
        identity = x if self.shortcut is None else self.shortcut(x, training=training)
        x = tf.nn.relu(self.conv2(tf.nn.relu(self.conv1(x, training=training)), training=training))
        return tf.nn.relu(self.conv3(x, training=training) + identity)


@keras.saving.register_keras_serializable("diptych")
class Stem(keras.layers.Layer):
    """A 7x7 convolution and a pool, each of stride 2.  x: (N, H, W, 3) -> (N, H / 4, W / 4, width), rounded up."""

    def __init__(self, width: int, norm: str, **kwargs):
        super().__init__(**kwargs)
        self.conv1 = ConvNorm(width, 7, 2, 3, norm)

    def call(self, x, training=False):
        return max_pool2d(tf.nn.relu(self.conv1(x, training=training)), 3, 2, 1)


@keras.saving.register_keras_serializable("diptych", "detectron2.ResNet")
class ResNet(keras.layers.Layer):
    """The stages ``res2`` to ``res5``.

    Args:
        layers: blocks of each stage.
        planes: width of each stage.
        norm: see :func:`choose_norm`.

    x: (N, H, W, 3) -> four maps (N, H_i, W_i, C_i), fine to coarse.
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], norm: str, **kwargs):
        super().__init__(**kwargs)
        self.stem, channels = Stem(planes[0], norm), planes[0]
        for i, (depth, width) in enumerate(zip(layers, planes, strict=True)):
            blocks = []
            for j in range(depth):
                strides = 2 if i > 0 and j == 0 else 1
                blocks.append(BottleneckBlock(width, strides, channels != 4 * width or strides != 1, norm))
                channels = 4 * width
            setattr(self, f"res{i + 2}", keras.Sequential(blocks))

    def call(self, images, training=False):
        x, maps = self.stem(images, training=training), []
        for i in range(2, 6):
            x = getattr(self, f"res{i}")(x, training=training)
            maps.append(x)
        return maps


@keras.saving.register_keras_serializable("diptych")
class TopBlock(keras.layers.Layer):
    """P6 and P7 by 3x3 convolutions of stride 2, a ReLU before the second; or P6 alone.

    Args:
        filters: channels of the levels.
        last: index of the coarsest level, 6 or 7.

    x: (N, H, W, C) -> dict of ``"p6"`` and, if it is the last, ``"p7"``.
    """

    def __init__(self, filters: int, last: int = 7, **kwargs):
        super().__init__(**kwargs)
        self.p6 = CONV(filters, 3, strides=2, padding=1)
        self.p7 = CONV(filters, 3, strides=2, padding=1) if last == 7 else None

    def call(self, x):
        p6 = self.p6(x)
        return {"p6": p6} if self.p7 is None else {"p6": p6, "p7": self.p7(tf.nn.relu(p6))}


@keras.saving.register_keras_serializable("diptych")
class ResNetFPN(keras.layers.Layer):
    """The network ``bottom_up`` and a pyramid of its maps with up to two more levels.

    Args:
        layers, planes: of the network.
        out_channels: channels of the levels.
        first: index of the finest level, 2 or 3.
        average: whether top-down sums are halved.
        top_of_map: P6 comes from the network's last map, otherwise from P5.
        last: index of the coarsest level, 5, 6 or 7.
        norm: of the network, see :func:`choose_norm`.

    Inputs: (N, H, W, 3) float.
    Returns: dict of levels (N, H_i, W_i, out_channels), ``"p2"`` or ``"p3"`` to the last.
    Raises: ValueError if ``last`` is unknown.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        out_channels: int,
        first: int = 3,
        average: bool = False,
        top_of_map: bool = False,
        last: int = 7,
        norm: str = "frozen",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if last not in (5, 6, 7):
            raise ValueError(f"last={last!r} must be 5, 6 or 7")
        self.first, self.average, self.top_of_map = first, average, top_of_map
        for i in range(first, 6):
            setattr(self, f"fpn_lateral{i}", CONV(out_channels, 1))
            setattr(self, f"fpn_output{i}", CONV(out_channels, 3, padding=1))
        self.top_block = TopBlock(out_channels, last) if last > 5 else None
        self.bottom_up = ResNet(layers, planes, norm)

    def call(self, images, training=False):
        maps, levels, x = self.bottom_up(images, training=training), {}, None
        for i in range(5, self.first - 1, -1):
            y = getattr(self, f"fpn_lateral{i}")(maps[i - 2])
            if x is not None:
                y = y + resize_nearest(x, map_size(y))
                y = y / 2 if self.average else y
            x = y
            levels[f"p{i}"] = getattr(self, f"fpn_output{i}")(x)
        levels = dict(sorted(levels.items()))
        if self.top_block is not None:
            levels |= self.top_block(maps[-1] if self.top_of_map else levels["p5"])
        return levels
