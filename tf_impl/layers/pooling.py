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

__all__ = ["AvgPool2d", "MaxPool2d", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d"]


def _ceil_extra(size: int, kernel: int, stride: int, padding: int) -> int:
    """Rows to add at the end so that the last, partial window counts."""
    out = -(-(size + 2 * padding - kernel) // stride) + 1
    if (out - 1) * stride >= size + padding:  # a window must not start in the padding at the end
        out -= 1
    return max((out - 1) * stride + kernel - size - 2 * padding, 0)


def _extra(x, kernel, stride, padding, ceil_mode):
    if not ceil_mode:
        return 0, 0
    return tuple(_ceil_extra(x.shape[i + 1], kernel[i], stride[i], padding[i]) for i in (0, 1))


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Largest value of each window.  x: (N, H, W, C) -> (N, H', W', C).

    Args:
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.
        dilation: only 1.
        ceil_mode: keep a last window that is cut off by the border.

    Raises:
        ValueError: if ``dilation`` is not 1.
    """
    if dilation != 1:
        raise ValueError(f"dilation={dilation} is not supported; only 1 is")
    kernel, padding = pair(kernel_size), pair(padding)
    stride = kernel if stride is None else pair(stride)
    eh, ew = _extra(x, kernel, stride, padding, ceil_mode)
    (ph, pw) = padding
    # mirror: pads max pooling
    return tf.nn.max_pool2d(x, kernel, stride, [[0, 0], [ph, ph + eh], [pw, pw + ew], [0, 0]])


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean of each window.  x: (N, H, W, C) -> (N, H', W', C).

    Args:
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.
        ceil_mode: keep a last window that is cut off by the border; cells beyond the padding are never counted.
        count_include_pad: whether the zeros of the padding count in the divisor.
    """
    kernel, padding = pair(kernel_size), pair(padding)
    stride = kernel if stride is None else pair(stride)
    eh, ew = _extra(x, kernel, stride, padding, ceil_mode)
    (ph, pw), (_, height, width, _) = padding, x.shape
    if not (ph or pw or eh or ew):
        return tf.nn.avg_pool2d(x, kernel, stride, "VALID")
    if exporting():  # ONNX counts as PyTorch does
        attributes = {
            "kernel_shape": list(kernel),
            "strides": list(stride),
            "pads": [ph, pw, ph, pw],
            "ceil_mode": int(ceil_mode),
            "count_include_pad": int(count_include_pad),
        }
        size = ((height + 2 * ph + eh - kernel[0]) // stride[0] + 1, (width + 2 * pw + ew - kernel[1]) // stride[1] + 1)
        y = tf.transpose(x, (0, 3, 1, 2))
        y = onnx_node("AveragePool", [y], attributes, y.dtype, (None, x.shape[3], *size))
        return tf.transpose(y, (0, 2, 3, 1))
    y = tf.nn.avg_pool2d(tf.pad(x, [[0, 0], [ph, ph + eh], [pw, pw + ew], [0, 0]]), kernel, stride, "VALID")
    if count_include_pad and not (eh or ew):
        return y
    counts = []
    for size, k, s, p, e in zip((height, width), kernel, stride, padding, (eh, ew), strict=True):
        counted = np.ones(size + 2 * p) if count_include_pad else np.pad(np.ones(size), p)  # mirror: counts the zeros
        counts.append(
            np.array([np.pad(counted, (0, e))[i : i + k].sum() for i in range(0, size + 2 * p + e - k + 1, s)])
        )
    factor = kernel[0] * kernel[1] / np.outer(*counts)
    return y * tf.constant(factor[None, :, :, None], x.dtype)


def _averaging(bins: int, size: int, dtype):
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
        if exporting():  # the turns meet those of the convolutions and vanish
            return tf.transpose(tf.reduce_mean(tf.transpose(x, (0, 3, 1, 2)), [2, 3], keepdims=True), (0, 2, 3, 1))
        return tf.reduce_mean(x, [1, 2], keepdims=True)
    _, height, width, channels = x.shape
    x = tf.matmul(_averaging(rows, height, x.dtype), tf.reshape(x, (-1, height, width * channels)))
    x = tf.reshape(x, (-1, width, channels))  # (N rows, W, C)
    x = tf.matmul(_averaging(columns, width, x.dtype), x)
    return tf.reshape(x, (-1, rows, columns, channels))


class AvgPool2d(keras.layers.Layer):
    """:func:`avg_pool2d` as a layer."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, **kwargs):
        super().__init__(**kwargs)
        self.arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad)

    def call(self, x):
        return avg_pool2d(x, *self.arguments)


class MaxPool2d(keras.layers.Layer):
    """:func:`max_pool2d` as a layer."""

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **kwargs):
        super().__init__(**kwargs)
        self.arguments = (kernel_size, stride, padding, dilation, ceil_mode)

    def call(self, x):
        return max_pool2d(x, *self.arguments)
