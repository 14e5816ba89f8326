"""RoIAlign: bins of a box filled with averaged bilinear samples; one ``RoiAlign`` node in ONNX.

Bilinear interpolation is separable: every bin is a weighted sum over a small grid of pixels, whose row and column
weights are computed independently.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- The weighted sum of rows of a table is ``F.embedding_bag`` in PyTorch, a gather and a product in TensorFlow.
"""

import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["roi_align"]


def roi_align(
    features,
    boxes_xyxy,
    batch_index,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
):
    """Features inside boxes, resampled to a fixed size.

    Args:
        features: (N, H, W, C); all but N are static.
        boxes_xyxy: (R, 4), in units of pixels / ``spatial_scale``. They get a gradient, unlike in torchvision; detach
            them where the reference has none.
        batch_index: (R,) integer, the image a box belongs to.
        output_size: bins per box, one number or (height, width).
        spatial_scale: factor from box coordinates to feature pixels.
        sampling_ratio: samples per bin and direction; 0 for one per pixel of the bin, rounded up; the largest box then
            decides how much memory is needed.
        aligned: take pixel centres at half coordinates. Otherwise the features are off by half a pixel, and boxes are
            at least one pixel wide and high, as in the first publications.

    Returns:
        (R, height, width, C).

    Source:
        torchvision.ops.roi_align.
    """
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    _, height, width, channels = features.shape
    if exporting():
        attributes = {
            "output_height": rows,
            "output_width": columns,
            "spatial_scale": float(spatial_scale),
            "sampling_ratio": sampling_ratio,
            "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        }
        inputs = [tf.transpose(features, [0, 3, 1, 2]), boxes_xyxy, tf.cast(batch_index, tf.int64)]  # mirror: NHWC
        shape = [boxes_xyxy.shape[0], channels, rows, columns]
        return tf.transpose(onnx_node("RoiAlign", inputs, attributes, features.dtype, shape), [0, 2, 3, 1])

    x1, y1, x2, y2 = tf.unstack(boxes_xyxy * spatial_scale - (0.5 if aligned else 0.0), num=4, axis=-1)  # (R,)
    y, y_weight = _axis_samples(y1, y2, rows, height, sampling_ratio, aligned)  # (R, rows, 2 S)
    x, x_weight = _axis_samples(x1, x2, columns, width, sampling_ratio, aligned)  # (R, columns, 2 T)
    pixel = (tf.cast(batch_index, tf.int64)[:, None, None] * height + y)[:, :, None, :, None] * width
    pixel = pixel + x[:, None, :, None, :]  # (R, rows, columns, 2 S, 2 T)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    table = tf.reshape(features, [-1, channels])  # (N H W, C)
    flat = [tf.shape(boxes_xyxy)[0], rows, columns, tf.shape(y)[2] * tf.shape(x)[2]]
    return _weighted_rows(table, tf.reshape(pixel, flat), tf.reshape(weight, flat))  # (R, rows, columns, C)


def _axis_samples(start, end, bins, size, sampling_ratio, aligned):
    """Pixels and weights of one direction, two for each sample.  start, end: (R,) -> (R, bins, 2 S) twice."""
    extent = end - start
    if not aligned:
        extent = tf.where(extent > 1.0, extent, tf.ones([], extent.dtype))
    step = (extent / bins)[:, None, None]  # (R, 1, 1)
    samples = tf.math.ceil(tf.stop_gradient(step)) if sampling_ratio == 0 else tf.fill(tf.shape(step), sampling_ratio)
    samples = tf.maximum(tf.cast(samples, step.dtype), 1.0)  # a box without extent has one sample, of weight 0
    most = sampling_ratio or tf.maximum(tf.reduce_max(samples), 1.0)  # without boxes the maximum is -inf
    i = tf.cast(tf.range(most), start.dtype)
    bin_index = tf.range(bins, dtype=start.dtype)[:, None]
    position = start[:, None, None] + bin_index * step + (i + 0.5) * step / samples  # (R, bins, S)

    counted = (i < samples) & (position >= -1.0) & (position <= size)
    if sampling_ratio == 0:
        counted = counted & (step > 0)
    position = tf.where(position > 0, position, tf.zeros([], position.dtype))
    low = tf.minimum(tf.floor(tf.stop_gradient(position)), size - 1)
    fraction = tf.where(low < size - 1, position - low, tf.zeros([], position.dtype))
    share = tf.cast(counted, start.dtype) / samples
    low = tf.cast(low, tf.int64)
    pixel = tf.concat([low, tf.minimum(low + 1, size - 1)], axis=-1)
    return pixel, tf.concat([(1.0 - fraction) * share, fraction * share], axis=-1)


def _weighted_rows(table, index, weight):
    """Sum of table rows.  table: (P, C), index, weight: (..., J) -> (..., C)."""
    return tf.squeeze(tf.matmul(weight[..., None, :], tf.gather(table, index)), axis=-2)  # mirror: rows of a table
