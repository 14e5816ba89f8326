"""RoIAlign: bins of a box filled with averaged bilinear samples; one ``RoiAlign`` node in ONNX.

Bilinear interpolation is separable: every bin is a weighted sum over a small grid of pixels, whose row and column
weights are computed independently.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- The weighted sum of rows of a table is ``F.embedding_bag`` in PyTorch, a gather and a product in TensorFlow.
- PyTorch takes all boxes at once; gathered, their samples would leave TensorFlow's cache, those of large boxes fill its
  memory.
"""

import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["pyramid_roi_align", "roi_align"]

GROUP = 16  # boxes whose samples are gathered at once, if their number depends on the boxes
NEAR = 8  # boxes whose gathered samples stay in a processor's cache


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
    if exporting():
        rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
        attributes = {
            "output_height": rows,
            "output_width": columns,
            "spatial_scale": float(spatial_scale),
            "sampling_ratio": sampling_ratio,
            "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        }
        inputs = [tf.transpose(features, [0, 3, 1, 2]), boxes_xyxy, tf.cast(batch_index, tf.int64)]  # mirror: NHWC
        shape = [boxes_xyxy.shape[0], features.shape[-1], rows, columns]
        return tf.transpose(onnx_node("RoiAlign", inputs, attributes, features.dtype, shape), [0, 2, 3, 1])

    level = tf.zeros_like(batch_index, dtype=tf.int64)
    return pyramid_roi_align(
        [features], [spatial_scale], level, boxes_xyxy, batch_index, output_size, sampling_ratio, aligned
    )


def pyramid_roi_align(
    maps,
    scales,
    level,
    boxes_xyxy,
    batch_index,
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = False,
):
    """Features inside boxes that belong to different maps; a ``RoiAlign`` node for each map in ONNX.

    Args:
        maps: list of (N, H, W, C), of different H and W.
        scales: factor from box coordinates to pixels of each map.
        level: (R,) int64, the map a box belongs to.
        boxes_xyxy, batch_index, output_size, sampling_ratio, aligned: see :func:`roi_align`.

    Returns:
        (R, height, width, C).
    """
    if exporting():
        found = 0
        for i, (features, scale) in enumerate(zip(maps, scales)):
            own = level == i
            rows = tf.where(own[:, None], boxes_xyxy, 0.0)  # the boxes of other levels would need many samples
            bins = roi_align(features, rows, batch_index, output_size, scale, sampling_ratio, aligned)
            found = found + tf.where(own[:, None, None, None], bins, 0.0)
        return found

    tables = [tf.reshape(features, [-1, features.shape[-1]]) for features in maps]  # (N H W, C)
    table = tf.concat(tables, 0)
    first = tf.cumsum([tf.shape(x, out_type=tf.int64)[0] for x in tables], exclusive=True)
    height, width = (
        tf.gather([tf.shape(features, out_type=tf.int64)[axis] for features in maps], level) for axis in (1, 2)
    )
    boxes = boxes_xyxy * tf.gather(tf.constant(scales, boxes_xyxy.dtype), level)[:, None]
    line = tf.gather(first, level) + tf.cast(batch_index, tf.int64) * height * width
    given = (boxes, line, height, width)

    def align(given):
        return _bins(table, *given, output_size, sampling_ratio, aligned)

    if sampling_ratio:
        return align(given)
    # mirror: boxes at once
    order = tf.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))  # those of a group are alike
    rest = -tf.size(order) % GROUP
    groups = tf.reshape(tf.pad(order, [[0, rest]]), [-1, GROUP])
    given = tuple(tf.gather(x, groups) for x in given)
    found = tf.map_fn(align, given, parallel_iterations=1, fn_output_signature=table.dtype)
    return tf.gather(tf.reshape(found, [-1, *found.shape[2:]]), tf.argsort(order))


def _bins(table, boxes, first, height, width, output_size, sampling_ratio, aligned):
    """Bins (R, rows, columns, C) of boxes (R, 4) in pixels of maps that begin at the rows ``first`` of the table."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    height, width = height[:, None, None], width[:, None, None]
    x1, y1, x2, y2 = tf.unstack(boxes - (0.5 if aligned else 0.0), num=4, axis=-1)  # (R,)
    y, y_weight = _axis_samples(y1, y2, rows, height, sampling_ratio, aligned)  # (R, rows, 2 S)
    x, x_weight = _axis_samples(x1, x2, columns, width, sampling_ratio, aligned)  # (R, columns, 2 T)
    line = first[:, None, None] + y * width
    pixel = line[:, :, None, :, None] + x[:, None, :, None, :]  # (R, rows, columns, 2 S, 2 T)
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    flat = [tf.shape(boxes)[0], rows, columns, tf.shape(y)[2] * tf.shape(x)[2]]
    weighted_rows = _weighted_rows_in_turn if sampling_ratio else _weighted_rows
    return weighted_rows(table, tf.reshape(pixel, flat), tf.reshape(weight, flat))


def _axis_samples(start, end, bins, size, sampling_ratio, aligned):
    """Pixels and weights of one direction, two per sample.  start, end: (R,), size: (R, 1, 1) -> (R, bins, 2 S)."""
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

    counted = (i < samples) & (position >= -1.0) & (position <= tf.cast(size, start.dtype))
    if sampling_ratio == 0:
        counted = counted & (step > 0)
    position = tf.where(position > 0, position, tf.zeros([], position.dtype))
    last = tf.cast(size - 1, start.dtype)
    low = tf.minimum(tf.floor(tf.stop_gradient(position)), last)
    fraction = tf.where(low < last, position - low, tf.zeros([], position.dtype))
    share = tf.cast(counted, start.dtype) / samples
    low = tf.cast(low, tf.int64)
    pixel = tf.concat([low, tf.minimum(low + 1, size - 1)], axis=-1)
    return pixel, tf.concat([(1.0 - fraction) * share, fraction * share], axis=-1)


def _weighted_rows(table, index, weight):
    """Sum of table rows.  table: (P, C), index, weight: (..., J) -> (..., C)."""
    return tf.squeeze(tf.matmul(weight[..., None, :], tf.gather(table, index)), axis=-2)  # mirror: rows of a table


@tf.custom_gradient
def _weighted_rows_in_turn(table, index, weight):
    """As :func:`_weighted_rows`, a few boxes at a time.  index, weight: (R, rows, columns, J)."""
    count, *bins = index.shape[0] or tf.shape(index)[0], *index.shape[1:3]
    given = tuple(tf.pad(x, [[0, -count % NEAR], [0, 0], [0, 0], [0, 0]]) for x in (index, weight))
    given = tuple(tf.reshape(x, [-1, NEAR, *bins, tf.shape(x)[3]]) for x in given)
    # mirror: boxes at once
    found = tf.map_fn(
        lambda group: _weighted_rows(table, *group), given, parallel_iterations=1, fn_output_signature=table.dtype
    )

    def gradient(upstream):  # at once: in turn, every group would have a gradient as large as the table
        upstream = upstream[..., None, :]
        of_table = tf.math.unsorted_segment_sum(weight[..., None] * upstream, index, tf.shape(table)[0])
        return of_table, None, tf.reduce_sum(tf.gather(table, index) * upstream, -1)

    return tf.reshape(found, [-1, *bins, table.shape[1]])[:count], gradient
