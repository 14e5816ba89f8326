"""Precise RoI pooling: the exact mean of the bilinear surface over every bin of a box.

"Acquisition of Localization Confidence for Accurate Object Detection", 2018, arXiv:1807.11590. Reference:
vacancy/PreciseRoIPooling (MIT). The integral of a bilinear surface is separable: two matrix products find it, with a
gradient for the features and for the boxes.

Mirror notes:
- NHWC in TensorFlow, NCHW in PyTorch.
"""

import tensorflow as tf

from .precision import single

__all__ = ["precise_roi_pool"]


def _integral(t):
    """Integral of the hat function of linear interpolation, from -1 to t."""
    t = tf.clip_by_value(t, -1, 1)
    return 0.5 + t - t * tf.abs(t) / 2


def _weights(first, last, bins: int, size: int):
    """Weight of every pixel of a line in every bin, and the length of a bin.

    Args:
        first, last: (R, P) ends of the boxes, in pixels.

    Returns:
        (R, P, bins, size) and (R, P).
    """
    length = tf.nn.relu(last - first) / bins
    edges = first[..., None] + length[..., None] * tf.range(bins + 1, dtype=first.dtype)
    reached = _integral(edges[..., None] - tf.range(size, dtype=first.dtype))  # (R, P, bins + 1, size)
    return reached[:, :, 1:] - reached[:, :, :-1], length


def precise_roi_pool(features, boxes_xyxy, output_size: int, spatial_scale: float):
    """Means over the bins of boxes.

    Args:
        features: (R, H, W, C), 0 outside.
        boxes_xyxy: (R, P, 4), P boxes for each map, in units of pixels / ``spatial_scale``; pixel centres are at whole
            numbers.
        output_size: bins per box and direction, K.
        spatial_scale: factor from box coordinates to feature pixels.

    Returns:
        (R, P, K, K, C); 0 for a box without area.
    """
    height, width, channels = features.shape[1:]
    x_first, y_first, x_last, y_last = tf.unstack(single(boxes_xyxy) * spatial_scale, axis=-1)
    rows, tall = _weights(y_first, y_last, output_size, height)
    columns, wide = _weights(x_first, x_last, output_size, width)
    count = boxes_xyxy.shape[1]
    x = tf.reshape(rows, (-1, count * output_size, height))
    x = tf.matmul(x, tf.reshape(single(features), (-1, height, width * channels)))
    x = tf.reshape(x, (-1, count, output_size, width, channels))
    x = tf.matmul(columns[:, :, None], x)  # mirror: NHWC
    area = (tall * wide)[:, :, None, None, None]
    x = tf.where(area > 0, x / tf.where(area > 0, area, 1.0), 0.0)
    return tf.cast(x, features.dtype)
