"""Convolutions with PyTorch's arguments on NHWC maps: any padding, stride, dilation and groups, in every float type.

Mirror notes:
- PyTorch ships ``Conv2d`` and ``ConvTranspose2d``; Keras pads on one side only ("same" at stride 2) and its grouped
  convolution does not export, so the TensorFlow panel has its own layers.
- Kernels are stored (kh, kw, in / groups, out), in PyTorch (out, in / groups, kh, kw).
"""

import math

import keras
import tensorflow as tf

from .native import exporting, onnx_node
from .normalization import moments

__all__ = [
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "DepthwiseConv2D",
    "StandardizedConv2D",
    "same_padding",
]


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """An argument that may be one number for both axes, as (height, width)."""
    return (value, value) if isinstance(value, int) else tuple(value)


def same_padding(size, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after an axis such that the output has length ceil(size / stride)."""
    largest = max if isinstance(size, int) else tf.maximum
    total = largest((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def uniform_fan_in() -> keras.initializers.Initializer:
    """PyTorch's default initial values of a kernel: uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in)."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def convolve(x, kernel, strides=(1, 1), pads=((0, 0), (0, 0)), dilation_rate=(1, 1), groups: int = 1):
    """Two-dimensional convolution; where TensorFlow lacks a kernel or a gradient, it is composed of what exists.

    Args:
        x: (N, H, W, C).
        kernel: (kh, kw, C / groups, out).
        strides, dilation_rate: by (height, width).
        pads: zeros (before, after) on height and width, or "SAME": so many that the output has length ceil(H / stride).
        groups: number of channel groups.

    Returns:
        (N, H', W', out).
    """
    if pads == "SAME" and strides != (1, 1) and (strides[0] != strides[1] or dilation_rate != (1, 1)):
        # strides that are taken from the result afterwards need other zeros than "SAME" without strides
        sizes = zip(tf.unstack(tf.shape(x)[1:3]), kernel.shape[:2], strides, dilation_rate, strict=True)
        x, pads = tf.pad(x, _explicit([same_padding(*size) for size in sizes])), ((0, 0), (0, 0))
    if groups == 1:
        return _dense(x, kernel, strides, pads, dilation_rate)
    if groups == x.shape[-1] and (dilation_rate == (1, 1) or strides == (1, 1)):
        return _depthwise(x, kernel, strides, pads, dilation_rate)
    if exporting():
        return _dense(x, kernel, strides, pads, dilation_rate)

    def split(x, kernel):
        parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([_dense(*part, strides, pads, dilation_rate) for part in parts], axis=-1)

    @tf.custom_gradient
    def native(x, kernel):
        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch((x, kernel))
                y = split(x, kernel)
            return tape.gradient(y, (x, kernel), upstream)

        return _dense(x, kernel, strides, pads, dilation_rate), gradient

    # TensorFlow has grouped gradients for some sizes in float32 only, none in float64
    return native(x, kernel) if x.dtype == tf.float32 else split(x, kernel)


def _explicit(pads):
    return pads if pads == "SAME" else [[0, 0], *(list(pair) for pair in pads), [0, 0]]


def _padded(x, pads):
    if pads == "SAME":
        return x, "SAME"
    return (tf.pad(x, _explicit(pads)) if any(map(any, pads)) else x), "VALID"


def _dense(x, kernel, strides, pads, dilation_rate):
    if dilation_rate == (1, 1) or exporting():
        return tf.nn.conv2d(x, kernel, strides, _explicit(pads), dilations=dilation_rate)
    # tf.nn.conv2d has no gradient with dilation, tf.nn.convolution no stride with it
    x, padding = _padded(x, pads)
    y = tf.nn.convolution(x, kernel, 1, padding, dilations=dilation_rate)
    return y[:, :: strides[0], :: strides[1]] if strides != (1, 1) else y


def _depthwise(x, kernel, strides, pads, dilation_rate):
    kh, kw, _, filters = kernel.shape
    kernel = tf.reshape(kernel, (kh, kw, x.shape[-1], filters // x.shape[-1]))
    sh, sw = strides
    if sh == sw:
        return tf.nn.depthwise_conv2d(x, kernel, (1, sh, sw, 1), _explicit(pads), dilations=dilation_rate)
    x, padding = _padded(x, pads)
    y = tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), padding)
    return y[:, ::sh, ::sw]  # TensorFlow's depthwise convolution has one stride for both axes


class Padded:
    """Base of the convolutions below: zeros on both sides, PyTorch's initial values, and dilation with strides."""

    def __init__(
        self,
        filters: int,
        kernel_size,
        strides=1,
        padding=0,
        dilation_rate=1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_initializer=None,
        bias_initializer=None,
        **kwargs,
    ):
        kwargs.setdefault("data_format", "channels_last")
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding if isinstance(padding, str) else "valid",
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=uniform_fan_in() if kernel_initializer is None else kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )
        # Keras would refuse strides and dilation together
        self.dilation_rate = _tuple(dilation_rate, self.rank)
        self.zeros = None if isinstance(padding, str) else _tuple(padding, self.rank)

    def build(self, input_shape):
        default = self.bias_initializer is None
        if default:  # PyTorch's
            bound = (input_shape[-1] // self.groups * math.prod(self.kernel_size)) ** -0.5
            self.bias_initializer = keras.initializers.RandomUniform(-bound, bound)
        super().build(input_shape)
        if default:
            self.bias_initializer = None

    def call(self, inputs):
        y = self.convolution_op(inputs, self.kernel)
        if self.bias is not None:
            y = tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))
        return y if self.activation is None else self.activation(y)

    def pads(self, x):
        """Zeros before and after each spatial axis of ``x``."""
        if self.zeros is not None:
            return tuple((n, n) for n in self.zeros)
        if self.padding == "valid":
            return ((0, 0),) * self.rank
        if None in x.shape[1:-1]:
            return "SAME"
        sizes = zip(x.shape[1:-1], self.kernel_size, self.strides, self.dilation_rate, strict=True)
        return tuple(same_padding(*size) for size in sizes)

    def compute_output_shape(self, input_shape):
        zeros = self.zeros or (0,) * self.rank
        sizes = [None if n is None else n + 2 * zero for n, zero in zip(input_shape[1:-1], zeros, strict=True)]
        return super().compute_output_shape((input_shape[0], *sizes, input_shape[-1]))

    def get_config(self):
        return {**super().get_config(), **({} if self.zeros is None else {"padding": self.zeros})}


def _tuple(value, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


@keras.saving.register_keras_serializable("diptych")
class Conv2D(Padded, keras.layers.Conv2D):  # mirror: ships Conv2d
    """keras.layers.Conv2D that also takes padding as a number, and whose groups and dilation export and have gradients.

    Args:
        filters: channels of the result.
        kernel_size, strides, dilation_rate: one number or (height, width).
        padding: "valid"; "same", which makes the output ceil(H / strides) long, with an odd zero at the end; or zeros
            on both sides, one number or (height, width), 0 by default.
        groups: number of channel groups; as many as channels make it a depthwise convolution.
        use_bias: whether a bias is added.
        kernel_initializer, bias_initializer: by default uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in), PyTorch's.
        kwargs: for keras.layers.Conv2D.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters), H' = (H + 2p - d(k - 1) - 1) // s + 1.
    """

    def convolution_op(self, inputs, kernel):
        # mirror: Kernels are stored
        kernel = tf.cast(kernel, inputs.dtype)
        return convolve(inputs, kernel, self.strides, self.pads(inputs), self.dilation_rate, self.groups)


@keras.saving.register_keras_serializable("diptych")
class DepthwiseConv2D(Conv2D):
    """Depthwise convolution: :class:`Conv2D` with as many groups and filters as there are channels.

    Args:
        kernel_size, strides, padding, dilation_rate, use_bias, the initializers: of :class:`Conv2D`.

    Inputs: (N, H, W, C).  Returns: (N, H', W', C).
    """

    def __init__(self, kernel_size, **kwargs):
        kwargs.pop("groups", None), kwargs.pop("filters", None)  # in a saved configuration; they follow from the input
        super().__init__(1, kernel_size, **kwargs)

    def build(self, input_shape):
        self.filters = self.groups = input_shape[-1]
        super().build(input_shape)


@keras.saving.register_keras_serializable("diptych", "convolution.Conv1D")
class Conv1D(Padded, keras.layers.Conv1D):
    """The same along one axis.

    Args: of :class:`Conv2D`, one number each.

    Inputs: (N, L, C).  Returns: (N, L', filters).
    """

    def convolution_op(self, inputs, kernel):
        kernel = tf.cast(kernel, inputs.dtype)[None]
        pads = self.pads(inputs)
        pads = pads if pads == "SAME" else ((0, 0), *pads)
        strides, dilation_rate = self.strides * 2, (1, *self.dilation_rate)
        return tf.squeeze(convolve(inputs[:, None], kernel, strides, pads, dilation_rate, self.groups), 1)


@keras.saving.register_keras_serializable("diptych")
class Conv3D(Padded, keras.layers.Conv3D):
    """The same along three axes; without groups and dilation.

    Args: of :class:`Conv2D`, one number or (time, height, width) each.

    Inputs: (N, T, H, W, C).  Returns: (N, T', H', W', filters).
    """

    def convolution_op(self, inputs, kernel):
        if self.groups != 1 or set(self.dilation_rate) != {1}:
            raise ValueError(f"groups={self.groups}, dilation_rate={self.dilation_rate}; only 1 is supported")
        x, padding = _padded(inputs, self.pads(inputs))
        return tf.nn.conv3d(x, tf.cast(kernel, x.dtype), (1, *self.strides, 1), padding)


@keras.saving.register_keras_serializable("diptych")
class StandardizedConv2D(Conv2D):
    """Convolution whose kernel is standardised per output channel: (w - mean) / sqrt(biased variance + epsilon).

    Args:
        epsilon: added to the variance inside the root.
        Others: of :class:`Conv2D`.

    Source: arXiv:1903.10520, in the variant of arXiv:1912.11370 (timm ``StdConv2d``).
    """

    def __init__(self, filters: int, kernel_size, *args, epsilon: float = 1e-6, **kwargs):
        super().__init__(filters, kernel_size, *args, **kwargs)
        self.epsilon = epsilon

    def convolution_op(self, inputs, kernel):
        kernel = tf.convert_to_tensor(kernel)
        mean, variance = moments(kernel, (0, 1, 2), keepdims=True)
        return super().convolution_op(inputs, (kernel - mean) * tf.math.rsqrt(variance + self.epsilon))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("diptych")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """keras.layers.Conv2DTranspose with PyTorch's padding.

    Args:
        filters, kernel_size, strides, use_bias: as in Keras.
        padding: one number or (height, width) of rows cut off on both sides.
        output_padding: rows added at the end.
        kernel_initializer, bias_initializer: by default PyTorch's, uniform with 1 / sqrt(filters kh kw).
        kwargs: for keras.layers.Conv2DTranspose.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters), H' = (H - 1) s - 2p + k + output_padding.
    """

    def __init__(
        self,
        filters: int,
        kernel_size,
        strides=1,
        padding=0,
        output_padding=0,
        use_bias: bool = True,
        kernel_initializer=None,
        bias_initializer=None,
        **kwargs,
    ):
        kwargs.setdefault("data_format", "channels_last")
        bound = (filters * math.prod(_tuple(kernel_size, 2))) ** -0.5
        uniform = keras.initializers.RandomUniform(-bound, bound)
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            use_bias=use_bias,
            kernel_initializer=uniform if kernel_initializer is None else kernel_initializer,
            bias_initializer=uniform.clone() if bias_initializer is None else bias_initializer,
            **kwargs,
        )
        self.cut, self.output_padding = _tuple(padding, 2), _tuple(output_padding, 2)

    def _sizes(self, sizes):
        """By axis: length without cutting, and length of the result."""
        full, result = [], []
        for axis, size in enumerate(sizes):
            length = (size - 1) * self.strides[axis] + self.kernel_size[axis]
            full.append(length + max(self.output_padding[axis] - self.cut[axis], 0))
            result.append(length - 2 * self.cut[axis] + self.output_padding[axis])
        return full, result

    def call(self, inputs):
        # the full result is longer by the padding at the start; past its end PyTorch's output padding holds zeros
        sizes = [size or tf.shape(inputs)[i + 1] for i, size in enumerate(inputs.shape[1:3])]
        full, size = self._sizes(sizes)
        if exporting():
            return self._native(inputs)
        shape = (tf.shape(inputs)[0], *full, self.filters)
        y = tf.nn.conv2d_transpose(inputs, tf.cast(self.kernel, inputs.dtype), shape, self.strides, "VALID")
        y = y[:, self.cut[0] : self.cut[0] + size[0], self.cut[1] : self.cut[1] + size[1]]
        if self.bias is not None:
            y = tf.nn.bias_add(y, tf.cast(self.bias, y.dtype))
        y = tf.ensure_shape(y, self.compute_output_shape(inputs.shape))
        return y if self.activation is None else self.activation(y)

    def _native(self, x):
        """ONNX pads the operator itself; the transposes around it cancel those of the neighbours."""
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), (3, 2, 0, 1))
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        attributes = {
            "kernel_shape": list(self.kernel_size),
            "strides": list(self.strides),
            "pads": [*self.cut, *self.cut],
            "output_padding": list(self.output_padding),
        }
        batch, *size, filters = self.compute_output_shape(x.shape)
        inputs = [tf.transpose(x, (0, 3, 1, 2)), kernel, bias]
        y = onnx_node("ConvTranspose", inputs, attributes, x.dtype, (batch, filters, *size))
        y = tf.transpose(y, (0, 2, 3, 1))
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape):
        size = [None if n is None else self._sizes([n] * 2)[1][axis] for axis, n in enumerate(tuple(input_shape)[1:3])]
        return (input_shape[0], *size, self.filters)

    def get_config(self):
        return {**super().get_config(), "padding": self.cut, "output_padding": self.output_padding}
