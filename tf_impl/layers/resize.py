"""Nearest, bilinear and bicubic resizing of feature maps, by PyTorch's rules; one ``Resize`` node in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- PyTorch has all of it in ``F.interpolate``. ``tf.image.resize`` rounds nearest coordinates differently, has another
  cubic kernel and returns float32: TensorFlow gathers rows and columns, or multiplies by two interpolation matrices.
"""

import numpy as np
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["map_size", "resize_bicubic", "resize_bilinear", "resize_nearest"]


def map_size(x) -> tuple:
    """Height and width of (N, H, W, C): numbers where they are known, else integer tensors."""
    return tuple(n or tf.shape(x)[axis] for axis, n in enumerate(x.shape[1:3], start=1))


def resize_nearest(x, size: tuple[int, int]):
    """Nearest neighbour: output pixel i shows input pixel floor(i * in / out).

    Args:
        x: (N, H, W, C).
        size: (h, w) of the output, numbers or integer tensors.

    Returns:
        (N, h, w, C).
    """
    known = all(isinstance(n, int) for n in (*x.shape[1:3], *size))
    if known and exporting() and _runtimes_agree(x.shape[1], size[0]) and _runtimes_agree(x.shape[2], size[1]):
        return _onnx_resize(x, size, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    for axis in (1, 2):
        if not known:
            x = tf.gather(x, _dynamic_nearest_index(tf.shape(x)[axis], size[axis - 1]), axis=axis)
            continue
        size_in, size_out = x.shape[axis], size[axis - 1]
        index = _nearest_index(size_in, size_out)
        if np.array_equal(index, np.repeat(np.arange(size_in), size_out // size_in)):
            x = tf.repeat(x, size_out // size_in, axis=axis)  # integer factor: same result, cheaper gradient
        else:
            x = tf.gather(x, index, axis=axis)  # mirror: rounds nearest coordinates
    return x


def resize_bilinear(x, size: tuple[int, int], align_corners: bool = False):
    """Linear interpolation between the two nearest pixels in each direction, without anti-aliasing.

    Args:
        x: (N, H, W, C).
        size: (h, w) of the output, numbers or integer tensors.
        align_corners: map corner centres onto corner centres (scale (in - 1) / (out - 1)); otherwise the image borders
            onto each other (scale in / out).

    Returns:
        (N, h, w, C).
    """
    if exporting():
        return _onnx_resize(x, size, mode="linear", coordinate_transformation_mode=_coordinates(align_corners))
    if not all(isinstance(n, int) for n in (*x.shape[1:3], *size)):
        return _dynamic_bilinear(_dynamic_bilinear(x, 1, size[0], align_corners), 2, size[1], align_corners)
    return _interpolate(x, size, _linear_matrix, align_corners)


def resize_bicubic(x, size: tuple[int, int], align_corners: bool = False):
    """Cubic convolution (a = -0.75) over the four nearest pixels in each direction; borders repeat, no anti-aliasing.

    Args:
        x: (N, H, W, C); H and W are static.
        size: (h, w) of the output.
        align_corners: as in :func:`resize_bilinear`.

    Returns:
        (N, h, w, C).
    """
    if exporting():
        coordinates = _coordinates(align_corners)
        return _onnx_resize(x, size, mode="cubic", coordinate_transformation_mode=coordinates, cubic_coeff_a=-0.75)
    return _interpolate(x, size, _cubic_matrix, align_corners)  # mirror: cubic kernel


def _coordinates(align_corners):
    return "align_corners" if align_corners else "half_pixel"


def _onnx_resize(x, size, **attributes):
    # With ``axes``, the sizes of batch and channels need not be known (opset 18).
    x = tf.transpose(x, [0, 3, 1, 2])  # mirror: NHWC
    known = all(isinstance(n, int) for n in size)
    sizes = tf.constant(size, tf.int64) if known else tf.stack([tf.cast(n, tf.int64) for n in size])
    shape = [*x.shape[:2], *(n if isinstance(n, int) else None for n in size)]
    x = onnx_node("Resize", [x, None, None, sizes], {"axes": [2, 3], **attributes}, x.dtype, shape)
    return tf.transpose(x, [0, 2, 3, 1])


def _nearest_index(size_in, size_out):
    """(size_out,) int64, rounded as PyTorch does: the product with the ratio in single precision."""
    ratio = np.float32(size_in) / np.float32(size_out)
    index = np.floor(np.arange(size_out, dtype=np.float32) * ratio).astype(np.int64)
    return np.minimum(index, size_in - 1)


def _dynamic_nearest_index(size_in, size_out):
    ratio = tf.cast(size_in, tf.float32) / tf.cast(size_out, tf.float32)
    index = tf.floor(tf.cast(tf.range(size_out), tf.float32) * ratio)
    return tf.minimum(tf.cast(index, tf.int32), size_in - 1)


def _dynamic_bilinear(x, axis, size_out, align_corners):
    """Along one axis whose length is a tensor: a weighted sum of two gathers."""
    size_in, i = tf.shape(x)[axis], tf.cast(tf.range(size_out), x.dtype)
    length_in, length_out = tf.cast(size_in, x.dtype), tf.cast(size_out, x.dtype)
    if align_corners:
        position = i * ((length_in - 1) / tf.maximum(length_out - 1, 1))
    else:
        position = tf.maximum((i + 0.5) * (length_in / length_out) - 0.5, 0)
    left = tf.floor(position)
    weight = tf.reshape(position - left, (-1, *(1,) * (3 - axis)))
    left = tf.cast(left, tf.int32)
    return tf.gather(x, left, axis=axis) * (1 - weight) + weight * tf.gather(
        x, tf.minimum(left + 1, size_in - 1), axis=axis
    )


def _runtimes_agree(size_in, size_out):
    """Whether ONNX runtimes, which divide by the inverse ratio, round to the same pixels."""
    scale = np.float32(size_out) / np.float32(size_in)
    index = np.floor(np.arange(size_out, dtype=np.float32) / scale).astype(np.int64)
    return np.array_equal(np.minimum(index, size_in - 1), _nearest_index(size_in, size_out))


def _interpolate(x, size, matrix, align_corners):
    height, width, channels = x.shape[1:]
    if size[0] != height:
        rows = tf.constant(matrix(height, size[0], align_corners), x.dtype)  # (h, H)
        x = tf.reshape(tf.matmul(rows, tf.reshape(x, [-1, height, width * channels])), [-1, size[0], width, channels])
    if size[1] != width:
        columns = tf.constant(matrix(width, size[1], align_corners), x.dtype)  # (w, W)
        x = tf.matmul(columns, x)  # (N, h, w, C)
    return x


def _source_position(size_in, size_out, align_corners):
    """(size_out,) float64: where the centre of each output pixel lies in the input, in pixel indices."""
    i = np.arange(size_out, dtype=np.float64)
    if align_corners:
        return i * ((size_in - 1) / (size_out - 1) if size_out > 1 else 0.0)
    return (i + 0.5) * (size_in / size_out) - 0.5


def _add_tap(matrix, column, weight):
    rows, size_in = np.arange(len(matrix)), matrix.shape[1]
    np.add.at(matrix, (rows, np.clip(column, 0, size_in - 1)), weight)


def _linear_matrix(size_in, size_out, align_corners):
    position = np.maximum(_source_position(size_in, size_out, align_corners), 0.0)
    left = np.floor(position).astype(np.int64)
    matrix = np.zeros((size_out, size_in))
    _add_tap(matrix, left, 1.0 - (position - left))
    _add_tap(matrix, left + 1, position - left)
    return matrix


def _cubic_matrix(size_in, size_out, align_corners, a=-0.75):
    position = _source_position(size_in, size_out, align_corners)
    left = np.floor(position).astype(np.int64)
    matrix = np.zeros((size_out, size_in))
    for tap in (-1, 0, 1, 2):
        d = np.abs(position - left - tap)
        near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
        far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
        _add_tap(matrix, left + tap, np.where(d <= 1.0, near, far))
    return matrix
