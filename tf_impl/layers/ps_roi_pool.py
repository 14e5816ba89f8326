"""Position-sensitive RoI pooling: every bin of a box reads its own channels.

"R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016, arXiv:1605.06409. Reference:
msracver/FCIS ``fcis/operator_cxx/psroi_pooling.cu`` (MIT). A bin's sum is a difference of four sums from the corner.

Mirror notes:
- NHWC in TensorFlow, NCHW in PyTorch; a bin's rows are gathered from tables with the channels last in both.
"""

import tensorflow as tf

__all__ = ["ps_roi_pool"]

PART = 10  # of a pixel; in these units all edges of bins are integers


def _edges(first, last, bins: int, size: int, stride: int):
    """First cell of every bin of every box, and the exclusive upper bound.

    Args:
        first, last: (N, R) first and last pixel of the boxes, whole numbers.

    Returns:
        (N, R, bins) int64 twice, in [0, size].
    """
    length = tf.maximum(PART * (last - first + 1), stride)  # at least a tenth of a cell
    edges = length[..., None] * tf.range(bins + 1, dtype=tf.int64) + (PART * bins * first)[..., None]
    cell = PART * bins * stride
    edges = tf.maximum(edges, 0)
    start = edges[..., :-1] // cell
    end = (edges[..., 1:] + cell - 1) // cell
    return tf.minimum(start, size), tf.minimum(end, size)


def ps_roi_pool(x, boxes_xyxy, group_size: int, pooled_size: int, stride: int):
    """Means over the cells of the bins of boxes; bins without a cell are 0.

    Args:
        x: (N, H, W, C G G), for each channel, G x G parts of a box.
        boxes_xyxy: (N, R, 4) in pixels, the right and lower border excluded; rounded to whole pixels.
        group_size: parts of a box in each direction, G.
        pooled_size: bins of a box in each direction, P, a multiple of G.
        stride: pixels from cell to cell.

    Returns:
        (N, R, P, P, C), with a gradient for ``x``.
    """
    height, width, channels = x.shape[1:]
    channels, boxes = channels // (group_size * group_size), tf.stop_gradient(boxes_xyxy)
    first, last = boxes[..., :2], boxes[..., 2:] - 1
    first, last = (
        tf.cast(tf.sign(b) * tf.floor(tf.abs(b) + 0.5), tf.int64) for b in (first, last)
    )  # halves away from 0
    left, right = _edges(first[..., 0], last[..., 0], pooled_size, width, stride)
    top, bottom = _edges(first[..., 1], last[..., 1], pooled_size, height, stride)

    sums = tf.cumsum(tf.cumsum(tf.cast(x, tf.float64), 1), 2)  # differences of large numbers
    sums = tf.pad(sums, ((0, 0), (1, 0), (1, 0), (0, 0)))
    table = tf.reshape(sums, (-1, height + 1, width + 1, channels, group_size * group_size))
    table = tf.reshape(tf.transpose(table, (0, 1, 2, 4, 3)), (-1, channels))  # mirror: channels last
    part = tf.range(pooled_size, dtype=tf.int64) * group_size // pooled_size
    part = part[:, None] * group_size + part
    image = tf.range(tf.shape(x, tf.int64)[0])[:, None, None, None]

    def corner(row, column):  # (N, R, P), (N, R, P) -> (N, R, P, P, C)
        place = (image * (height + 1) + row[..., :, None]) * (width + 1) + column[..., None, :]
        return tf.gather(table, place * (group_size * group_size) + part)

    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    count = tf.maximum(bottom - top, 0)[..., :, None] * tf.maximum(right - left, 0)[..., None, :]
    count = count[..., None]
    mean = tf.where(count > 0, total / tf.cast(tf.maximum(count, 1), total.dtype), 0.0)
    return tf.cast(mean, x.dtype)
