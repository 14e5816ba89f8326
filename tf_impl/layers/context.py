"""Blocks in which every position sees the whole map: the global context block and the non-local block.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492; "Non-local Neural
Networks", 2017, arXiv:1711.07971. Parameter names: mmcv ``cnn/bricks/context_block.py`` and ``non_local.py``
(Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which transposes its maps to NCHW for the matrix products: in a file these
  transposes cancel those of the convolutions.
- Keras infers the width of the map, and makes the layers that depend on it when it sees one.
- The layer normalisation over [P, 1, 1] is PyTorch's own; TensorFlow has a small layer for it.
"""

import functools

import keras
import tensorflow as tf

from .conv_module import ConvModule
from .convolution import Conv2D
from .initialization import KaimingNormal
from .native import exporting, onnx_node
from .normalization import BatchNormalization, moments
from .pooling import MaxPooling2D, adaptive_avg_pool2d

__all__ = ["ContextBlock", "NonLocal2d"]


@keras.saving.register_keras_serializable("diptych")
class ContextBlock(keras.layers.Layer):
    """One context vector of the whole map, added to every position or multiplied with it.

    Args:
        ratio: the two 1x1 convolutions of a branch have P = int(C * ratio) channels between them.
        pooling_type: "att", a mean weighted by a softmax over all positions, or "avg", the plain mean.
        fusion_types: "channel_mul" (through a sigmoid, first), "channel_add", or both.

    x: (N, H, W, C), the same shape out.
    Raises: ValueError if ``pooling_type`` or one of ``fusion_types`` is unknown.
    """

    def __init__(
        self,
        ratio: float,
        pooling_type: str = "att",
        fusion_types: tuple[str, ...] = ("channel_add",),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if pooling_type not in ("att", "avg"):
            raise ValueError(f"pooling_type={pooling_type!r} must be 'att' or 'avg'")
        if not fusion_types or not set(fusion_types) <= {"channel_add", "channel_mul"}:
            raise ValueError(f"fusion_types={fusion_types!r} must hold 'channel_add', 'channel_mul' or both")
        self.ratio, self.pooling_type, self.fusion_types = ratio, pooling_type, tuple(fusion_types)

    def build(self, input_shape):  # mirror: infers the width
        channels = input_shape[-1]
        if self.pooling_type == "att":
            self.conv_mask = Conv2D(1, 1, kernel_initializer=full_normal(), bias_initializer="zeros")
        self.channel_add_conv = self.channel_mul_conv = None
        if "channel_add" in self.fusion_types:
            self.channel_add_conv = branch(channels, int(channels * self.ratio))
        if "channel_mul" in self.fusion_types:
            self.channel_mul_conv = branch(channels, int(channels * self.ratio))

    def call(self, x):
        context = self.pool(x)
        y = x
        if self.channel_mul_conv is not None:
            y = y * tf.sigmoid(self.channel_mul_conv(context))
        if self.channel_add_conv is not None:
            y = y + self.channel_add_conv(context)
        return y

    def pool(self, x):
        """The context.  (N, H, W, C) -> (N, 1, 1, C)."""
        if self.pooling_type == "avg":
            return adaptive_avg_pool2d(x, 1)
        maps = flatten(x)  # (N, C, H W)
        attention = tf.nn.softmax(tf.reshape(self.conv_mask(x), (-1, places(x))))  # (N, H W)
        context = tf.matmul(maps, tf.expand_dims(attention, -1))
        return tf.transpose(tf.reshape(context, (-1, x.shape[-1], 1, 1)), (0, 2, 3, 1))


def full_normal():
    """Normal with variance 2 / fan_in."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def places(x):
    """H W of (N, H, W, C): a number if both are known."""
    return x.shape[1:3].num_elements() or tf.shape(x)[1] * tf.shape(x)[2]


def flatten(x):
    """(N, H, W, C) -> (N, C, H W)."""
    return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, x.shape[-1], places(x)))  # mirror: matrix products


@keras.saving.register_keras_serializable("diptych")
class ChannelNorm(keras.layers.Layer):  # mirror: layer normalisation over
    """Layer normalisation over the channels of a 1x1 map.  x: (N, 1, 1, P), the same shape out."""

    torch_names = {"gamma": ("weight", None), "beta": ("bias", None)}

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        shape = (input_shape[-1], 1, 1)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")

    def call(self, x):
        gamma, beta = (tf.convert_to_tensor(v) for v in (self.gamma, self.beta))
        if exporting():
            y, attributes = tf.transpose(x, (0, 3, 1, 2)), {"axis": 1, "epsilon": self.epsilon}
            y = onnx_node("LayerNormalization", [y, gamma, beta], attributes, y.dtype, y.shape)
            return tf.transpose(y, (0, 2, 3, 1))
        mean, variance = moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + self.epsilon) * gamma[:, 0, 0] + beta[:, 0, 0]

    def compute_output_shape(self, input_shape):
        return input_shape


def branch(channels: int, planes: int):
    """C -> P -> C with layer normalisation and ReLU between; starts as zero."""
    last = Conv2D(channels, 1, kernel_initializer="zeros", bias_initializer="zeros")
    return keras.Sequential([Conv2D(planes, 1), ChannelNorm(), keras.layers.ReLU(), last])


@keras.saving.register_keras_serializable("diptych")
class NonLocal2d(keras.layers.Layer):
    """Every position receives a weighted sum over all positions, with weights from pairs.

    Args:
        reduction: the sum is of I = max(C // reduction, 1) channels.
        use_scale: "embedded_gaussian" divides by sqrt(I) before the softmax.
        norm: normalisation after the last convolution, None or "batch".
        mode: the weight of a pair: "embedded_gaussian", softmax of theta . phi; "gaussian", softmax of x . x;
            "dot_product", theta . phi / number of positions; "concatenation", ReLU(w . [theta, phi]) / number of
            positions.
        sub_sample: max pooling by 2 of the positions that are summed over; a last odd row or column is dropped.
        zeros_init: the block starts as the identity.

    x: (N, H, W, C), the same shape out.
    Raises: ValueError if there is no such ``mode``.
    """

    def __init__(
        self,
        reduction: int = 2,
        use_scale: bool = True,
        norm: str | None = None,
        mode: str = "embedded_gaussian",
        sub_sample: bool = False,
        zeros_init: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mode not in ("gaussian", "embedded_gaussian", "dot_product", "concatenation"):
            raise ValueError(f"mode={mode!r} must be 'gaussian', 'embedded_gaussian', 'dot_product' or 'concatenation'")
        self.reduction, self.use_scale, self.norm, self.mode = reduction, use_scale, norm, mode
        self.sub_sample, self.zeros_init = sub_sample, zeros_init

    def build(self, input_shape):
        channels = input_shape[-1]
        width = max(channels // self.reduction, 1)

        def inner():
            small = keras.initializers.RandomNormal(stddev=0.01)
            return ConvModule(width, 1, activation=None, kernel_initializer=small)

        def sampled(layer):
            return keras.Sequential([layer, MaxPooling2D(2)]) if self.sub_sample else layer

        self.g = sampled(inner())
        zero, norm = self.zeros_init, self.norm
        if norm is not None and zero:
            norm = functools.partial(BatchNormalization, gamma_initializer="zeros")
        kernel = "zeros" if norm is None else KaimingNormal
        kernel = kernel if zero else keras.initializers.RandomNormal(stddev=0.01)
        self.conv_out = ConvModule(channels, 1, norm=norm, activation=None, kernel_initializer=kernel)
        if self.mode == "gaussian":
            self.phi = MaxPooling2D(2) if self.sub_sample else None
        else:
            self.theta = inner()
            self.phi = sampled(inner())
        if self.mode == "concatenation":
            conv = Conv2D(1, 1, use_bias=False, kernel_initializer=KaimingNormal)
            conv.build((None, None, None, 2 * width))  # its kernel is used without a call
            self.concat_project = {"conv": conv}
        self.inter_channels = width

    def call(self, x, training=False):
        values = flatten(self.g(x))  # (N, I, K)
        queries = flatten(x if self.mode == "gaussian" else self.theta(x))  # (N, I, Q)
        keys = flatten(x if self.phi is None else self.phi(x))
        weights = self.pairwise(queries, keys)  # (N, Q, K)
        shape = [n or tf.shape(x)[axis] for axis, n in enumerate(x.shape[1:3], start=1)]
        y = tf.reshape(tf.matmul(values, weights, transpose_b=True), (-1, self.inter_channels, *shape))
        return x + self.conv_out(tf.transpose(y, (0, 2, 3, 1)), training=training)

    def pairwise(self, queries, keys):
        """Weight of every pair.  (N, I, Q), (N, I, K) -> (N, Q, K)."""
        count = keys.shape[-1] or tf.cast(tf.shape(keys)[-1], keys.dtype)
        if self.mode == "concatenation":  # w . [theta, phi] = w1 . theta + w2 . phi
            of_query, of_key = tf.unstack(tf.reshape(self.concat_project["conv"].kernel, (2, 1, -1)))
            energy = tf.matmul(queries, of_query[0, :, None], transpose_a=True) + tf.matmul(of_key, keys)
            return tf.nn.relu(energy) / count
        energy = tf.matmul(queries, keys, transpose_a=True)
        if self.mode == "dot_product":
            return energy / count
        if self.mode == "embedded_gaussian" and self.use_scale:
            energy = energy / self.inter_channels**0.5
        return tf.nn.softmax(energy)
