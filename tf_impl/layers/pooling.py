"""Pooling with PyTorch's arguments on NHWC maps.

Mirror notes:
- PyTorch pads max pooling with -inf and counts the zeros of average pooling unless told otherwise; TensorFlow's "SAME"
  pads on one side and never counts. Padding is explicit here.
"""

import keras
import numpy as np
import tensorflow as tf

from .convolution import pair
from .native import exporting, onnx_node

__all__ = [
    "AdaptiveAveragePooling2D",
    "AveragePooling2D",
    "MaxPooling2D",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "max_pool2d",
]


def _ceil_extra(size, kernel: int, stride: int, padding: int):
    """Rows to add at the end so that the last, partial window counts; ``size`` is a number or an integer tensor."""
    largest = max if isinstance(size, int) else tf.maximum
    out = -(-(size + 2 * padding - kernel) // stride) + 1
    starts_inside = (out - 1) * stride < size + padding  # no window starts in the padding at the end
    out = out - 1 + (int(starts_inside) if isinstance(size, int) else tf.cast(starts_inside, tf.int32))
    return largest((out - 1) * stride + kernel - size - 2 * padding, 0)


def _sizes(x) -> list:
    """Height and width: numbers where they are known, else integer tensors."""
    return [size or tf.shape(x)[i + 1] for i, size in enumerate(x.shape[1:3])]


def _extra(x, kernel, stride, padding, ceil_mode):
    if not ceil_mode:
        return 0, 0
    return tuple(_ceil_extra(*of_axis) for of_axis in zip(_sizes(x), kernel, stride, padding, strict=True))


def _output_size(shape, kernel, stride, padding, ceil_mode) -> list:
    """Height and width of the result; None where they are not known."""
    found = []
    for size, k, s, p in zip(shape[1:3], kernel, stride, padding, strict=True):
        extra = _ceil_extra(size, k, s, p) if ceil_mode and size is not None else 0
        found.append(None if size is None else (size + 2 * p + extra - k) // s + 1)
    return found


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Largest value of each window.  x: (N, H, W, C) -> (N, H', W', C).

    Args:
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.
        dilation: only 1.
        ceil_mode: keep a last window that crosses the border.

    Raises:
        ValueError: if ``dilation`` is not 1.
    """
    if dilation != 1:
        raise ValueError(f"dilation={dilation} is not supported; only 1 is")
    kernel, padding = pair(kernel_size), pair(padding)
    stride = kernel if stride is None else pair(stride)
    extra = _extra(x, kernel, stride, padding, ceil_mode)
    if not any(isinstance(n, tf.Tensor) or n for n in (*padding, *extra)):
        return tf.nn.max_pool2d(x, kernel, stride, "VALID")
    if exporting():
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        shape = (None, x.shape[3], *_output_size(x.shape, kernel, stride, padding, ceil_mode))
        y = onnx_node(
            "MaxPool", [tf.transpose(x, (0, 3, 1, 2))], attributes | {"ceil_mode": int(ceil_mode)}, x.dtype, shape
        )
        return tf.transpose(y, (0, 2, 3, 1))
    # mirror: pads max pooling
    pads = [[0, 0], *([p, p + e] for p, e in zip(padding, extra, strict=True)), [0, 0]]
    # XLA has no pooling with explicit padding; and a finite number, because 0 times infinity is not a number
    y = tf.nn.max_pool2d(tf.pad(x, pads, constant_values=x.dtype.min), kernel, stride, "VALID")
    return tf.ensure_shape(y, (None, *_output_size(x.shape, kernel, stride, padding, ceil_mode), x.shape[3]))


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean of each window.  x: (N, H, W, C) -> (N, H', W', C).

    Args:
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.
        ceil_mode: keep a last window that crosses the border; cells beyond the padding are never counted.
        count_include_pad: whether the zeros of the padding count in the divisor.
    """
    kernel, padding = pair(kernel_size), pair(padding)
    stride = kernel if stride is None else pair(stride)
    extra = _extra(x, kernel, stride, padding, ceil_mode)
    if not any(isinstance(n, tf.Tensor) or n for n in (*padding, *extra)):
        return tf.nn.avg_pool2d(x, kernel, stride, "VALID")
    size = _output_size(x.shape, kernel, stride, padding, ceil_mode)
    if exporting():  # ONNX counts as PyTorch does
        attributes = {
            "kernel_shape": list(kernel),
            "strides": list(stride),
            "pads": [*padding, *padding],
            "ceil_mode": int(ceil_mode),
            "count_include_pad": int(count_include_pad),
        }
        y = tf.transpose(x, (0, 3, 1, 2))
        y = onnx_node("AveragePool", [y], attributes, y.dtype, (None, x.shape[3], *size))
        return tf.transpose(y, (0, 2, 3, 1))

    pads = [[0, 0], *([p, p + e] for p, e in zip(padding, extra, strict=True)), [0, 0]]
    y = tf.nn.avg_pool2d(tf.pad(x, pads), kernel, stride, "VALID")
    y = tf.ensure_shape(y, (None, *size, x.shape[3]))
    if count_include_pad and not ceil_mode:
        return y
    counted = []  # by axis, 1 for every cell that counts in the divisor, 0 for the others
    for n, p, e in zip(_sizes(x), padding, extra, strict=True):
        ones = tf.ones(n + 2 * p, x.dtype) if count_include_pad else tf.pad(tf.ones(n, x.dtype), [[p, p]])
        counted.append(tf.pad(ones, [[0, e]]))  # mirror: counts the zeros
    counts = [
        tf.nn.avg_pool1d(of_axis[None, :, None], k, s, "VALID")[0, :, 0]
        for of_axis, k, s in zip(counted, kernel, stride, strict=True)
    ]
    return y / (counts[0][:, None, None] * counts[1][:, None])


def _averaging(bins: int, size, dtype):
    """(bins, size): row i holds 1 / n at the n cells of bin i."""
    if not isinstance(size, int):
        i, cell = tf.range(bins)[:, None], tf.range(size)
        inside = tf.cast((cell >= i * size // bins) & (cell < -(-(i + 1) * size // bins)), dtype)
        return inside / tf.reduce_sum(inside, 1, keepdims=True)
    matrix = np.zeros((bins, size))
    for i in range(bins):
        first, last = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, first:last] = 1 / (last - first)
    return tf.constant(matrix, dtype)


def adaptive_avg_pool2d(x, output_size: int | tuple[int, int]):
    """Mean over a grid of bins that may overlap: bin i of n covers [floor(iH/n), ceil((i+1)H/n)).

    Args:
        x: (N, H, W, C).
        output_size: (h, w) or one number.

    Returns:
        (N, h, w, C)
    """
    rows, columns = pair(output_size)
    if (rows, columns) == (1, 1):
        if exporting():  # the transposes cancel those of the convolutions
            return tf.transpose(tf.reduce_mean(tf.transpose(x, (0, 3, 1, 2)), [2, 3], keepdims=True), (0, 2, 3, 1))
        return tf.reduce_mean(x, [1, 2], keepdims=True)
    (height, width), channels = _sizes(x), x.shape[3]
    x = tf.matmul(_averaging(rows, height, x.dtype), tf.reshape(x, (-1, height, width * channels)))
    x = tf.reshape(x, (-1, width, channels))  # (N rows, W, C)
    x = tf.matmul(_averaging(columns, width, x.dtype), x)
    return tf.reshape(x, (-1, rows, columns, channels))


class Pooling:
    """The common part of the two layers below."""

    def __init__(self, pool_size=2, strides=None, padding=0, ceil_mode: bool = False, **kwargs):
        kwargs.setdefault("data_format", "channels_last")
        super().__init__(pool_size, strides, **kwargs)
        self.padding, self.ceil_mode = pair(padding), ceil_mode

    def compute_output_shape(self, input_shape):
        size = _output_size(input_shape, self.pool_size, self.strides, self.padding, self.ceil_mode)
        return (input_shape[0], *size, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "ceil_mode": self.ceil_mode}


@keras.saving.register_keras_serializable("diptych")
class MaxPooling2D(Pooling, keras.layers.MaxPooling2D):
    """keras.layers.MaxPooling2D that also pads on both sides.

    Args:
        pool_size, strides: one number or (height, width); ``strides`` is ``pool_size`` if None.
        padding: cells added on both sides, never the largest.
        ceil_mode: keep a last window that crosses the border.

    Inputs: (N, H, W, C).  Returns: (N, H', W', C).
    """

    def call(self, inputs):
        return max_pool2d(inputs, self.pool_size, self.strides, self.padding, ceil_mode=self.ceil_mode)


@keras.saving.register_keras_serializable("diptych")
class AveragePooling2D(Pooling, keras.layers.AveragePooling2D):
    """keras.layers.AveragePooling2D that also pads on both sides.

    Args:
        pool_size, strides: one number or (height, width); ``strides`` is ``pool_size`` if None.
        padding: zeros added on both sides.
        ceil_mode: keep a last window that crosses the border; cells beyond the padding are never counted.
        count_include_pad: whether the zeros of the padding count in the divisor.

    Inputs: (N, H, W, C).  Returns: (N, H', W', C).
    """

    def __init__(
        self,
        pool_size=2,
        strides=None,
        padding=0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        **kwargs,
    ):
        super().__init__(pool_size, strides, padding, ceil_mode, **kwargs)
        self.count_include_pad = count_include_pad

    def call(self, inputs):
        return avg_pool2d(inputs, self.pool_size, self.strides, self.padding, self.ceil_mode, self.count_include_pad)

    def get_config(self):
        return {**super().get_config(), "count_include_pad": self.count_include_pad}


@keras.saving.register_keras_serializable("diptych")
class AdaptiveAveragePooling2D(keras.layers.Layer):
    """Mean over a fixed number of bins, whatever the size of the map; see :func:`adaptive_avg_pool2d`.

    Args:
        size: bins, one number or (height, width).

    Inputs: (N, H, W, C).  Returns: (N, h, w, C).
    """

    def __init__(self, size: int | tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.size = pair(size)

    def call(self, x):
        return adaptive_avg_pool2d(x, self.size)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
