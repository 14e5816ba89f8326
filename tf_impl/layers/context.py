"""Blocks in which every place sees the whole map: the global context block and the non-local block.

"GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019, arXiv:1904.11492; "Non-local Neural
Networks", 2017, arXiv:1711.07971. Parameter names: mmcv ``cnn/bricks/context_block.py`` and ``non_local.py``
(Apache-2.0).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow, which turns its maps to NCHW for the matrix products: in a file the turns meet
  those of the convolutions and vanish.
- PyTorch fills tensors that exist; Keras builds lazily, so a layer is told its initializer before it builds.
- The layer normalisation over [P, 1, 1] is PyTorch's own; TensorFlow has a small layer for it.
"""

import keras
import tensorflow as tf

from .convolution import Conv2d
from .feature_pyramid import ConvModule
from .native import exporting, onnx_node
from .pooling import MaxPool2d, adaptive_avg_pool2d

__all__ = ["ContextBlock", "NonLocal2d"]


class ContextBlock(keras.layers.Layer):
    """One context vector of the whole map, added to every place or multiplied with it.

    Args:
        in_channels: width C of the map.
        ratio: the two 1x1 convolutions of a branch have P = int(C * ratio) channels between them.
        pooling_type: "att", a mean weighted by a softmax over all places, or "avg", the plain mean.
        fusion_types: "channel_mul" (through a sigmoid, first), "channel_add", or both.

    x: (N, H, W, C), the same shape out.
    Raises: ValueError if ``pooling_type`` or one of ``fusion_types`` is another one.
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
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
        self.pooling_type = pooling_type
        if pooling_type == "att":
            self.conv_mask = Conv2d(in_channels, 1, 1)
            # mirror: PyTorch fills tensors
            self.conv_mask.kernel_initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
            self.conv_mask.bias_initializer = "zeros"
        planes = int(in_channels * ratio)
        self.channel_add_conv = branch(in_channels, planes) if "channel_add" in fusion_types else None
        self.channel_mul_conv = branch(in_channels, planes) if "channel_mul" in fusion_types else None

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
        _, height, width, channels = x.shape
        attention = tf.nn.softmax(tf.reshape(self.conv_mask(x), (-1, height * width)))  # (N, H W)
        context = tf.matmul(flatten(x), tf.expand_dims(attention, -1))
        return tf.transpose(tf.reshape(context, (-1, channels, 1, 1)), (0, 2, 3, 1))


def flatten(x):
    """(N, H, W, C) -> (N, C, H W)."""
    _, height, width, channels = x.shape
    return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, channels, height * width))  # mirror: matrix products


class ChannelNorm(keras.layers.Layer):  # mirror: layer normalisation over
    """Layer normalisation over the channels of a 1x1 map.  x: (N, 1, 1, P), the same shape out."""

    torch_names = {"gamma": ("weight", None), "beta": ("bias", None)}

    def __init__(self, channels: int, eps: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.eps = channels, eps

    def build(self, input_shape):
        shape = (self.channels, 1, 1)
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")

    def call(self, x):
        gamma, beta = (tf.convert_to_tensor(v) for v in (self.gamma, self.beta))
        if exporting():
            y = tf.transpose(x, (0, 3, 1, 2))
            y = onnx_node("LayerNormalization", [y, gamma, beta], {"axis": 1, "epsilon": self.eps}, y.dtype, y.shape)
            return tf.transpose(y, (0, 2, 3, 1))
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + self.eps) * gamma[:, 0, 0] + beta[:, 0, 0]


def branch(channels: int, planes: int):
    """C -> P -> C with layer normalisation and ReLU between; starts as zero."""
    last = Conv2d(planes, channels, 1)
    last.kernel_initializer = last.bias_initializer = "zeros"
    return keras.Sequential([Conv2d(channels, planes, 1), ChannelNorm(planes), keras.layers.ReLU(), last])


class NonLocal2d(keras.layers.Layer):
    """Every place receives a weighted sum over all places, the weights from pairs of places.

    Args:
        in_channels: width C of the map.
        reduction: the sum is of I = max(C // reduction, 1) channels.
        use_scale: "embedded_gaussian" divides by sqrt(I) before the softmax.
        norm: normalisation after the last convolution, None or "batch".
        mode: the weight of a pair: "embedded_gaussian", softmax of theta . phi; "gaussian", softmax of x . x;
            "dot_product", theta . phi / number of places; "concatenation", ReLU(w . [theta, phi]) / number of places.
        sub_sample: max pooling by 2 of the places that are summed over; a last odd row or column is dropped.
        zeros_init: the block starts as the identity.

    x: (N, H, W, C), the same shape out.
    Raises: ValueError if there is no such ``mode``.
    """

    keeps_initial_values = True

    def __init__(
        self,
        in_channels: int,
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
        self.use_scale, self.mode = use_scale, mode
        self.inter_channels = width = max(in_channels // reduction, 1)
        inner = [ConvModule(in_channels, width, 1, relu=False) for _ in range(1 if mode == "gaussian" else 3)]
        self.g = keras.Sequential([inner[0], MaxPool2d(2)]) if sub_sample else inner[0]
        self.conv_out = ConvModule(width, in_channels, 1, norm=norm, relu=False)
        if mode == "gaussian":
            self.phi = MaxPool2d(2) if sub_sample else None
        else:
            self.theta = inner[1]
            self.phi = keras.Sequential([inner[2], MaxPool2d(2)]) if sub_sample else inner[2]
        if mode == "concatenation":
            self.concat_project = {"conv": Conv2d(2 * width, 1, 1, bias=False)}
            self.concat_project["conv"].kernel_initializer = keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            )
        small = keras.initializers.RandomNormal(stddev=0.01)
        for layer in inner:
            layer.conv.kernel_initializer, layer.conv.bias_initializer = small, "zeros"
        if zeros_init and norm is not None:
            self.conv_out.bn.gamma_initializer = "zeros"
        else:
            self.conv_out.conv.kernel_initializer = "zeros" if zeros_init else small
        self.conv_out.conv.bias_initializer = "zeros"

    def build(self, input_shape):
        if self.mode == "concatenation":  # its kernel is used without a call
            self.concat_project["conv"].build(None)

    def call(self, x, training=False):
        _, height, width, _ = x.shape
        values = flatten(self.g(x))  # (N, I, K)
        queries = flatten(x if self.mode == "gaussian" else self.theta(x))  # (N, I, Q)
        keys = flatten(x if self.phi is None else self.phi(x))
        weights = self.pairwise(queries, keys)  # (N, Q, K)
        y = tf.reshape(tf.matmul(values, weights, transpose_b=True), (-1, self.inter_channels, height, width))
        return x + self.conv_out(tf.transpose(y, (0, 2, 3, 1)), training=training)

    def pairwise(self, queries, keys):
        """Weight of every pair.  (N, I, Q), (N, I, K) -> (N, Q, K)."""
        if self.mode == "concatenation":  # w . [theta, phi] = w1 . theta + w2 . phi
            of_query, of_key = tf.unstack(tf.reshape(self.concat_project["conv"].kernel, (2, 1, -1)))
            energy = tf.matmul(queries, of_query[0, :, None], transpose_a=True) + tf.matmul(of_key, keys)
            return tf.nn.relu(energy) / keys.shape[-1]
        energy = tf.matmul(queries, keys, transpose_a=True)
        if self.mode == "dot_product":
            return energy / keys.shape[-1]
        if self.mode == "embedded_gaussian" and self.use_scale:
            energy = energy / self.inter_channels**0.5
        return tf.nn.softmax(energy)
