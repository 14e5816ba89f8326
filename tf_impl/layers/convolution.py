"""Convolutions with PyTorch's arguments on NHWC maps: any padding, stride, dilation and groups, in every float type.

Mirror notes:
- PyTorch ships ``Conv2d`` and ``ConvTranspose2d``; Keras pads on one side only ("same" at stride 2) and its grouped
  convolution does not export, so the TensorFlow panel has layers of its own.
- Kernels are stored (kh, kw, in / groups, out), in PyTorch (out, in / groups, kh, kw).
"""

import keras
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["Conv2d", "Conv2dSame", "ConvTranspose2d", "StdConv2d", "same_padding"]


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """The (height, width) form of an argument that may be one number for both."""
    return (value, value) if isinstance(value, int) else tuple(value)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after an axis that make the output ceil(size / stride) long."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _uniform(fan_in: int):
    """PyTorch's default initial values of kernels and biases."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


class Conv2d(keras.layers.Layer):  # mirror: ships Conv2d
    """Two-dimensional convolution.

    Args:
        in_channels, out_channels: widths; ``groups`` divides both.
        kernel_size, stride, padding, dilation: one number or (height, width). Padding adds zeros on both sides.
        groups: number of channel groups; ``in_channels`` of them make it a depthwise convolution.
        bias: whether a bias is added.

    Inputs: (N, H, W, in_channels).  Returns: (N, H', W', out_channels), H' = (H + 2p - d(k - 1) - 1) // s + 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = pair(padding), pair(dilation)
        self.use_bias = bias
        fan_in = in_channels // groups * self.kernel_size[0] * self.kernel_size[1]
        self.kernel_initializer = self.bias_initializer = _uniform(fan_in)

    def build(self, input_shape):
        if input_shape is not None and input_shape[-1] != self.in_channels:
            raise ValueError(f"{self.name}: {self.in_channels} input channels expected, {input_shape[-1]} given")
        shape = (*self.kernel_size, self.in_channels // self.groups, self.out_channels)
        # mirror: Kernels are stored
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.out_channels,), initializer=self.bias_initializer)

    def call(self, x):
        y = self.convolve(x, tf.convert_to_tensor(self.kernel))
        return y if self.bias is None else tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))

    def convolve(self, x, kernel):
        """The convolution of ``x`` with a given kernel, without bias."""
        kernel = tf.cast(kernel, x.dtype)
        if self.groups == 1:
            return self._dense(x, kernel)
        if self.groups == self.in_channels and (self.dilation == (1, 1) or self.stride == (1, 1)):
            return self._depthwise(x, kernel)
        if exporting():
            return self._dense(x, kernel)
        return self._grouped(x, kernel)

    def _grouped(self, x, kernel):
        def split(x, kernel):
            parts = zip(tf.split(x, self.groups, axis=-1), tf.split(kernel, self.groups, axis=-1), strict=True)
            return tf.concat([self._dense(*part) for part in parts], axis=-1)

        @tf.custom_gradient
        def native(x, kernel):
            def gradient(upstream):
                with tf.GradientTape() as tape:
                    tape.watch((x, kernel))
                    y = split(x, kernel)
                return tape.gradient(y, (x, kernel), upstream)

            return self._dense(x, kernel), gradient

        # TensorFlow has no grouped gradient in float64, and in float32 only for some sizes
        return native(x, kernel) if x.dtype == tf.float32 else split(x, kernel)

    def _pads(self, x) -> list[list[int]]:
        (ph, pw) = self.padding
        return [[0, 0], [ph, ph], [pw, pw], [0, 0]]

    def _dense(self, x, kernel):
        if self.dilation == (1, 1):
            return tf.nn.conv2d(x, kernel, self.stride, self._pads(x))
        # tf.nn.conv2d has no gradient with dilation, tf.nn.convolution no stride with it
        y = tf.nn.convolution(tf.pad(x, self._pads(x)), kernel, 1, "VALID", dilations=self.dilation)
        return y[:, :: self.stride[0], :: self.stride[1]] if self.stride != (1, 1) else y

    def _depthwise(self, x, kernel):
        kh, kw, _, width = kernel.shape
        kernel = tf.reshape(kernel, (kh, kw, self.in_channels, width // self.in_channels))
        sh, sw = self.stride
        if sh == sw:
            return tf.nn.depthwise_conv2d(x, kernel, (1, sh, sw, 1), self._pads(x), dilations=self.dilation)
        y = tf.nn.depthwise_conv2d(tf.pad(x, self._pads(x)), kernel, (1, 1, 1, 1), "VALID")
        return y[:, ::sh, ::sw]  # TensorFlow's depthwise convolution has one stride for both axes


class Conv2dSame(Conv2d):
    """Convolution whose output is as long as the input divided by the stride, rounded up: TensorFlow's "SAME".

    The zeros depend on the size of the map; an odd one goes to the bottom or to the right.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: of the convolution.

    Inputs: (N, H, W, in_channels).  Returns: (N, ceil(H / stride), ceil(W / stride), out_channels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias, **kwargs)

    def _pads(self, x):
        sizes = zip(x.shape[1:3], self.kernel_size, self.stride, self.dilation, strict=True)
        return [[0, 0], *(list(same_padding(*size)) for size in sizes), [0, 0]]


class ConvTranspose2d(keras.layers.Layer):
    """Transposed convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, bias: as in PyTorch.

    Inputs: (N, H, W, in_channels).  Returns: (N, H', W', out_channels), H' = (H - 1) s - 2p + k + output_padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.output_padding = pair(padding), pair(output_padding)
        self.use_bias = bias
        fan_in = out_channels * self.kernel_size[0] * self.kernel_size[1]
        self.kernel_initializer = self.bias_initializer = _uniform(fan_in)

    def build(self, input_shape):
        shape = (*self.kernel_size, self.out_channels, self.in_channels)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.out_channels,), initializer=self.bias_initializer)

    def call(self, x):
        # the full result is longer by `padding` at the start; past its end PyTorch's output padding holds zeros
        full, start, size = [], [], []
        for axis in (0, 1):
            length = (x.shape[axis + 1] - 1) * self.stride[axis] + self.kernel_size[axis]
            size.append(length - 2 * self.padding[axis] + self.output_padding[axis])
            start.append(self.padding[axis])
            full.append(max(length, start[axis] + size[axis]))
        if exporting():
            return self._native(x, size)
        shape = (tf.shape(x)[0], *full, self.out_channels)
        y = tf.nn.conv2d_transpose(x, tf.cast(self.kernel, x.dtype), shape, self.stride, "VALID")
        y = y[:, start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
        return y if self.bias is None else tf.nn.bias_add(y, tf.cast(self.bias, y.dtype))

    def _native(self, x, size):
        """ONNX pads the operator itself; the turns to NCHW and back meet those of the neighbours and vanish."""
        kernel = tf.transpose(tf.convert_to_tensor(self.kernel), (3, 2, 0, 1))
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        attributes = {
            "kernel_shape": list(self.kernel_size),
            "strides": list(self.stride),
            "pads": [*self.padding, *self.padding],
            "output_padding": list(self.output_padding),
        }
        inputs = [tf.transpose(x, (0, 3, 1, 2)), kernel, bias]
        y = onnx_node("ConvTranspose", inputs, attributes, x.dtype, (None, self.out_channels, *size))
        return tf.transpose(y, (0, 2, 3, 1))


class StdConv2d(Conv2d):
    """Convolution whose kernel is standardised per output channel: (w - mean) / sqrt(biased variance + eps).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: of the convolution.
        eps: added to the variance inside the root.

    Source: arXiv:1903.10520, in the form of arXiv:1912.11370 (timm ``StdConv2d``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-6,
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, **kwargs)
        self.eps = eps

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel)
        mean, variance = tf.nn.moments(kernel, (0, 1, 2), keepdims=True)
        y = self.convolve(x, (kernel - mean) * tf.math.rsqrt(variance + self.eps))
        return y if self.bias is None else tf.nn.bias_add(y, tf.convert_to_tensor(self.bias))
