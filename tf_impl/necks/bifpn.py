"""BiFPN: a pyramid with a top-down and a bottom-up path, whose nodes add maps with weights.

"EfficientDet: Scalable and Efficient Object Detection", 2019, arXiv:1911.09070, section 3.
Parameter names: effdet ``efficientdet.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch. Keras infers the input widths of convolutions.
- "same" pooling pads on the right and below at even sizes; TensorFlow has it built in, PyTorch pads with -inf.
- The initial values use fans as the reference counts them: 9 and 9 for a depthwise kernel.
"""

import functools
from collections.abc import Mapping

import keras
import tensorflow as tf

from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D, DepthwiseConv2D
from tf_impl.layers.normalization import BatchNormalization
from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.resize import map_size, resize_nearest

__all__ = ["NORM", "BiFPN", "BiFPNCell", "SeparableConv", "downsample"]

NORM = functools.partial(BatchNormalization, epsilon=1e-3, momentum=0.99)
EPS = 1e-4  # keeps the sum of the weights above 0
# level, and the maps that are added to make it: 0 to 4 are the inputs P3 to P7, 5 to 12 the nodes themselves
NODES = (
    (6, (3, 4)),
    (5, (2, 5)),
    (4, (1, 6)),
    (3, (0, 7)),
    (4, (1, 7, 8)),
    (5, (2, 6, 9)),
    (6, (3, 5, 10)),
    (7, (4, 11)),
)


def downsample(x, pad_mode: str):
    """3x3 max pooling at stride 2.

    Args:
        x: (N, H, W, C).
        pad_mode: "same" (the TensorFlow release), "zeros" (the same with padding of 0; mmdet) or "torch" (the same on
            both sides).

    Returns:
        (N, ceil(H / 2), ceil(W / 2), C).
    """
    if pad_mode == "torch":
        return max_pool2d(x, 3, 2, 1)
    if pad_mode == "zeros":
        rows, columns = ((1 + n % 2) for n in map_size(x))
        sides = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        return tf.nn.max_pool2d(tf.pad(x, sides), 3, 2, "VALID")
    return tf.nn.max_pool2d(x, 3, 2, "SAME")  # mirror: "same" pooling


@keras.saving.register_keras_serializable("diptych")
class SeparableConv(keras.layers.Layer):
    """Depthwise 3x3 convolution, then a 1x1 convolution, optionally normalised.

    Args:
        filters: channels of the result.
        use_bias: whether the 1x1 convolution has one.
        norm: whether it is normalised.
        prior: bias of the 1x1 convolution before training.
        small: initial values of the heads, normal with variance 1 / fan_in; otherwise Glorot's.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(
        self, filters: int, use_bias: bool, norm: bool = True, prior: float = 0.0, small: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        if small:
            depthwise = keras.initializers.RandomNormal(stddev=1 / 3)  # mirror: fans as the reference
            pointwise = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
        else:
            depthwise = keras.initializers.RandomUniform(-(3**-0.5), 3**-0.5)
            pointwise = "glorot_uniform"
        self.conv_dw = DepthwiseConv2D(3, padding=1, use_bias=False, kernel_initializer=depthwise)
        self.conv_pw = Conv2D(
            filters,
            1,
            use_bias=use_bias,
            kernel_initializer=pointwise,
            bias_initializer=keras.initializers.Constant(prior),
        )
        self.bn = NORM() if norm else None

    def call(self, x, training=False):
        x = self.conv_pw(self.conv_dw(x))
        return x if self.bn is None else self.bn(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class Resample(keras.layers.Layer):
    """The map of another level: with the pyramid's width, and its size halved or doubled where it differs.

    Args:
        project: whether there is a convolution; if not, the map has the pyramid's width already.
        filters: channels of the result.
        use_bias: whether the convolution has one.
        pad_mode: see :func:`downsample`.

    x: (N, H, W, C), size (h, w) -> (N, h, w, filters).
    """

    def __init__(self, project: bool, filters: int, use_bias: bool, pad_mode: str, **kwargs):
        super().__init__(**kwargs)
        self.pad_mode, self.conv = pad_mode, None
        if project:
            options = dict(use_bias=use_bias, norm=NORM, activation=None, kernel_initializer="glorot_uniform")
            self.conv = ConvModule(filters, 1, **options)

    def call(self, x, size, training=False):
        x = x if self.conv is None else self.conv(x, training=training)
        if map_size(x) < size:
            return resize_nearest(x, size)
        return downsample(x, self.pad_mode) if map_size(x) > size else x


@keras.saving.register_keras_serializable("diptych")
class Combine(keras.layers.Layer):
    """The weighted sum of some maps.

    Args:
        inputs: index of every map.
        project: for every map, whether its width differs from the sum's.
        filters: channels of the sum.
        use_bias, pad_mode: see :class:`Resample`.
        weighted: whether the maps have weights; these are clipped at 0 and divided by their sum.

    maps: (N, H_i, W_i, C_i) each, size (h, w) -> (N, h, w, channels).
    """

    def __init__(self, inputs: tuple[int, ...], project, filters: int, use_bias, pad_mode, weighted, **kwargs):
        super().__init__(**kwargs)
        self.edge_weights = None
        if weighted:
            self.edge_weights = self.add_weight(name="edge_weights", shape=(len(inputs),), initializer="ones")
        self.resample = {str(i): Resample(p, filters, use_bias, pad_mode) for i, p in zip(inputs, project)}

    def call(self, maps, size, training=False):
        maps = [resample(x, size=size, training=training) for resample, x in zip(self.resample.values(), maps)]
        if self.edge_weights is None:
            return sum(maps)
        weights = tf.nn.relu(tf.convert_to_tensor(self.edge_weights))
        return sum(x * weight for x, weight in zip(maps, tf.unstack(weights))) / (tf.reduce_sum(weights) + EPS)


@keras.saving.register_keras_serializable("diptych")
class AfterCombine(keras.layers.Layer):
    """Swish and a separable convolution.  (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, filters: int, use_bias: bool, **kwargs):
        super().__init__(**kwargs)
        self.conv = SeparableConv(filters, use_bias)

    def call(self, x, training=False):
        return self.conv(tf.nn.silu(x), training=training)


@keras.saving.register_keras_serializable("diptych")
class Node(keras.layers.Layer):
    """A sum of maps and what follows it, see :class:`Combine` and :class:`AfterCombine`."""

    def __init__(self, inputs, project, filters, use_bias, pad_mode, weighted, **kwargs):
        super().__init__(**kwargs)
        self.combine = Combine(inputs, project, filters, use_bias, pad_mode, weighted)
        self.after_combine = AfterCombine(filters, use_bias)

    def call(self, maps, size, training=False):
        return self.after_combine(self.combine(maps, size=size, training=training), training=training)


@keras.saving.register_keras_serializable("diptych")
class BiFPNCell(keras.layers.Layer):
    """One top-down and one bottom-up path.

    Args:
        project: for each of the five levels, whether its width differs.
        filters: channels of the output levels.
        use_bias, pad_mode, weighted: see :class:`Combine`.

    Inputs: five maps (N, H_i, W_i, C_i), fine to coarse.
    Returns: five maps (N, H_i, W_i, channels).
    """

    def __init__(self, project: list[bool], filters: int, use_bias: bool, pad_mode: str, weighted: bool, **kwargs):
        super().__init__(**kwargs)
        project, nodes = [*project, *[False] * len(NODES)], []
        for _, inputs in NODES:
            nodes.append(Node(inputs, [project[i] for i in inputs], filters, use_bias, pad_mode, weighted))
        self.fnode = nodes

    def call(self, levels, training=False):
        maps, sizes = list(levels), [map_size(x) for x in levels]
        for node, (level, inputs) in zip(self.fnode, NODES):
            maps.append(node([maps[i] for i in inputs], size=sizes[level - 3], training=training))
        return maps[-5:]


@keras.saving.register_keras_serializable("diptych")
class BiFPN(keras.layers.Layer):
    """P6 and P7 from the last map, then the cells.

    Args:
        in_channels: channels of the maps C3 to C5, by name.
        channels: channels of the levels.
        cells: number of cells.
        bias: whether convolutions have one although a normalisation follows (the TensorFlow release).
        pad_mode: see :func:`downsample`.
        weighted: see :class:`Combine`.

    Inputs: dict of maps (N, H_i, W_i, C_i), "c3" to "c5" among them; H and W of C5 multiples of 4.
    Returns: dict of levels (N, H_i, W_i, channels), "p3" to "p7".
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int = 64,
        cells: int = 3,
        bias: bool = True,
        pad_mode: str = "same",
        weighted: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.used, self.pad_mode = tuple(in_channels), pad_mode
        project = [width != channels for width in in_channels.values()]
        self.resample = {"3": Resample(project[-1], channels, bias, pad_mode)}
        first, further = [*project, False, False], [False] * 5
        self.cell = [BiFPNCell(first if i == 0 else further, channels, bias, pad_mode, weighted) for i in range(cells)]

    def call(self, maps, training=False):
        levels = [maps[name] for name in self.used]
        size = tuple(-(-n // 2) for n in map_size(levels[-1]))
        levels.append(self.resample["3"](levels[-1], size=size, training=training))
        levels.append(downsample(levels[-1], self.pad_mode))
        for cell in self.cell:
            levels = cell(levels, training=training)
        return {f"p{i + 3}": x for i, x in enumerate(levels)}
