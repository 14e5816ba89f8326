"""Sampling a feature map at given positions; one ``GridSample`` node in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow; the grid is the same in both.
- PyTorch has ``F.grid_sample``; TensorFlow gathers, and follows its rules for the gradient at the borders.
"""

import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["grid_sample"]


def grid_sample(x, grid, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False):
    """Value of ``x`` at every position of ``grid``.

    Args:
        x: (N, H, W, C); all but N are static.
        grid: (N, h, w, 2), for each output pixel the horizontal, then the vertical coordinate in [-1, 1].
        mode: ``"bilinear"`` or ``"nearest"`` (halves round to even; no gradient for the grid).
        padding_mode: what lies outside: ``"zeros"``, ``"border"`` (the nearest border pixel) or ``"reflection"``.
        align_corners: -1 and 1 are the centres of the first and last pixel; otherwise their outer edges.

    Returns:
        (N, h, w, C).

    Raises:
        ValueError: if ``mode`` or ``padding_mode`` is unknown.
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode must be 'zeros', 'border' or 'reflection', got {padding_mode!r}")
    _, height, width, channels = x.shape
    if exporting():
        attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": int(align_corners)}
        shape = [x.shape[0], channels, *grid.shape[1:3]]
        # mirror: grid is the same
        x = onnx_node("GridSample", [tf.transpose(x, [0, 3, 1, 2]), grid], attributes, x.dtype, shape)
        return tf.transpose(x, [0, 2, 3, 1])

    column_index, column_weight = _taps(grid[..., 0], width, mode, padding_mode, align_corners)  # (N, h, w, J)
    row_index, row_weight = _taps(grid[..., 1], height, mode, padding_mode, align_corners)
    image = tf.reshape(tf.range(tf.shape(x, tf.int64)[0]), [-1, 1, 1, 1, 1])
    index = (image * height + row_index[..., :, None]) * width + column_index[..., None, :]  # (N, h, w, J, J)
    weight = row_weight[..., :, None] * column_weight[..., None, :]
    flat = [-1, *grid.shape[1:3], index.shape[-2] * index.shape[-1]]
    # mirror: F.grid_sample
    pixels = tf.gather(tf.reshape(x, [-1, channels]), tf.reshape(index, flat))  # (N, h, w, J J, C)
    return tf.squeeze(tf.matmul(tf.reshape(weight, flat)[..., None, :], pixels), axis=-2)


def _taps(coordinate, size, mode, padding_mode, align_corners):
    """The pixels next to each coordinate of one direction and their weights, 0 outside.  (...) -> (..., J) twice."""
    if align_corners:
        position, first, span = (coordinate + 1.0) / 2.0 * (size - 1), 0.0, size - 1
    else:
        position, first, span = ((coordinate + 1.0) * size - 1.0) / 2.0, -0.5, size
    if padding_mode == "reflection":
        position = _reflect(position, first, span)
    if padding_mode != "zeros":
        # No gradient at the border itself, where tf.clip_by_value would pass it.
        position = tf.where(position > 0, position, tf.zeros([], position.dtype))
        position = tf.where(position < size - 1, position, tf.cast(size - 1, position.dtype))

    if mode == "nearest":
        tap = tf.round(tf.stop_gradient(position))[..., None]
        weight = tf.ones_like(tap)
    else:
        low = tf.floor(tf.stop_gradient(position))
        tap = tf.stack([low, low + 1.0], axis=-1)
        weight = tf.stack([1.0 - (position - low), position - low], axis=-1)
    inside = tf.cast((tap >= 0) & (tap <= size - 1), position.dtype)
    return tf.cast(tf.clip_by_value(tap, 0, size - 1), tf.int64), weight * inside


def _reflect(position, first, span):
    """Mirror images beyond ``first`` and ``first + span``, where the derivative changes its sign."""
    if span == 0:
        return tf.zeros_like(position)
    distance = position - first
    distance = tf.where(distance < 0, -distance, distance)
    flips = tf.floor(tf.stop_gradient(distance) / span)
    beyond = distance - flips * span
    return first + tf.where(flips % 2 == 0, beyond, span - beyond)
