"""Max pooling that returns its indices, and its partial inverse; ``MaxPool`` and ``MaxUnpool`` nodes in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow. An index counts the pixels of one channel's plane, row by row, in both.
- TensorFlow counts channels too and cannot pad, so its indices are converted. ONNX counts images and channels, so both
  panels convert there.
"""

import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["max_pool2d_with_indices", "max_unpool2d"]


def max_pool2d_with_indices(
    x,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
):
    """Largest value of each window and its place; of equal values the first one in reading order.

    Args:
        x: (N, H, W, C); all but N are static.
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.

    Returns:
        values: (N, h, w, C).
        indices: (N, h, w, C) int64, row * W + column in the input plane.
    """
    kernel, stride, padding = _arguments(kernel_size, stride, padding)
    _, height, width, channels = x.shape
    if exporting():
        size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)]
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        x, shape = tf.transpose(x, [0, 3, 1, 2]), [x.shape[0], channels, *size]
        values, indices = onnx_node("MaxPool", [x], attributes, [x.dtype, tf.int64], [shape, shape])
        # mirror: indices are converted
        return tf.transpose(values, [0, 2, 3, 1]), tf.transpose(indices % (height * width), [0, 2, 3, 1])
    (ph, pw), lowest = padding, x.dtype.min
    padded = tf.pad(x, [[0, 0], [ph, ph], [pw, pw], [0, 0]], constant_values=lowest)
    # mirror: index counts the pixels
    values, indices = tf.nn.max_pool_with_argmax(padded, kernel, stride, "VALID", output_dtype=tf.int64)
    indices = indices // channels
    row, column = indices // (width + 2 * pw) - ph, indices % (width + 2 * pw) - pw
    return values, row * width + column


def max_unpool2d(
    x,
    indices,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    output_size: tuple[int, int] | None = None,
):
    """Values put back where they were pooled from; zero elsewhere.

    Args:
        x, indices: (N, h, w, C), as of :func:`max_pool2d_with_indices`; all but N are static.
        kernel_size, stride, padding: those of the pooling.
        output_size: (H, W) of the pooled map; ``None`` for the smallest size that leads to (h, w).

    Returns:
        (N, H, W, C).
    """
    kernel, stride, padding = _arguments(kernel_size, stride, padding)
    _, *size, channels = x.shape
    smallest = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    height, width = smallest if output_size is None else output_size
    batch, channel = tf.range(tf.shape(x, tf.int64)[0])[:, None, None, None], tf.range(channels, dtype=tf.int64)
    if exporting():
        indices = indices + (batch * channels + channel) * (height * width)
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        x, indices = tf.transpose(x, [0, 3, 1, 2]), tf.transpose(indices, [0, 3, 1, 2])
        planes = onnx_node("Shape", [x], {"start": 0, "end": 2}, tf.int64, [2])
        inputs = [x, indices, tf.concat([planes, tf.constant([height, width], tf.int64)], axis=0)]
        shape = [x.shape[0], channels, height, width]
        return tf.transpose(onnx_node("MaxUnpool", inputs, attributes, x.dtype, shape), [0, 2, 3, 1])
    place = (batch * (height * width) + indices) * channels + channel  # in the flattened result
    empty = tf.zeros([tf.size(x[:, 0, 0, 0]) * (height * width * channels)], x.dtype)
    # Windows that overlap may share a place: the value is set, not added.
    result = tf.tensor_scatter_nd_update(empty, tf.reshape(place, [-1, 1]), tf.reshape(x, [-1]))
    return tf.reshape(result, [-1, height, width, channels])


def _arguments(kernel_size, stride, padding):
    stride = kernel_size if stride is None else stride
    return [(value, value) if isinstance(value, int) else tuple(value) for value in (kernel_size, stride, padding)]
