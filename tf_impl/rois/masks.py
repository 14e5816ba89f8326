"""Masks of objects inside boxes: the targets of a network, and pasting into the image.

"Mask R-CNN", 2017, arXiv:1703.06870.

Mirror notes:
- NHWC here, NCHW in PyTorch, for RoIAlign.
"""

import tensorflow as tf

from tf_impl.layers.roi_align import roi_align

__all__ = ["mask_targets", "paste_masks"]


def mask_targets(boxes, matched, masks, size: int, binary: bool):
    """Crop its object's mask to every box.

    Args:
        boxes: (N, R, 4) xyxy in pixels.
        matched: (N, R) int64, index of the object; the result for a negative one is arbitrary.
        masks: (N, M, H, W), 0 or 1.
        size: height and width of the result.
        binary: clip the boxes to the image and round the averages to 0 or 1 (mmdet); otherwise neither (torchvision).

    Returns:
        (N, R, size, size) in [0, 1].

    Source: torchvision ``detection/roi_heads.project_masks_on_boxes``; mmdet ``BitmapMasks.crop_and_resize``.
    """
    _, count, height, width = masks.shape
    rows = tf.stop_gradient(boxes)
    if binary:
        rows = tf.minimum(tf.maximum(rows, 0.0), tf.constant([width, height, width, height], rows.dtype))
    image = tf.range(tf.shape(masks, out_type=tf.int64)[0])[:, None] * count + tf.maximum(matched, 0)
    features = tf.cast(tf.reshape(masks, (-1, height, width, 1)), rows.dtype)  # mirror: NHWC
    found = roi_align(features, tf.reshape(rows, (-1, 4)), tf.reshape(image, (-1,)), size, 1.0, 0, binary)
    found = tf.reshape(found, (-1, boxes.shape[1], size, size))
    return tf.cast(found >= 0.5, rows.dtype) if binary else found


def paste_masks(masks, boxes, size: tuple[int, int], convention: str):
    """Paste masks of boxes into images.

    Args:
        masks: (N, D, S, S) probabilities.
        boxes: (N, D, 4) xyxy in pixels of the image.
        size: height and width of the image.
        convention: "mmdet" samples at the middle of every pixel; "torchvision" enlarges the boxes slightly and moves
            them to whole pixels.

    Returns:
        (N, D, H, W) probabilities, 0 outside the boxes.

    Raises:
        ValueError: if ``convention`` is unknown.

    Source: torchvision ``detection/roi_heads.paste_masks_in_image``; mmdet ``fcn_mask_head._do_paste_mask``.
    """
    if convention not in ("torchvision", "mmdet"):
        raise ValueError(f"convention={convention!r} must be 'torchvision' or 'mmdet'")
    weights = _sampling_weights if convention == "mmdet" else _resizing_weights
    x1, y1, x2, y2 = tf.unstack(boxes, num=4, axis=-1)
    rows = weights(y1, y2, size[0], masks.shape[2])  # (N, D, H, S)
    columns = weights(x1, x2, size[1], masks.shape[3])
    return tf.matmul(tf.matmul(rows, masks), columns, transpose_b=True)


def _sampling_weights(start, end, length, cells):
    """Weight of every cell in a pixel, by the distance of their centres.  (N, D) -> (N, D, length, cells)."""
    extent = end - start
    pixel = tf.range(length, dtype=start.dtype) + 0.5
    place = (pixel - start[..., None]) / tf.where(extent > 0, extent, 1.0)[..., None] * cells - 0.5
    cell = tf.range(cells, dtype=start.dtype)
    shares = tf.maximum(1.0 - tf.abs(place[..., None] - cell), 0.0)
    return tf.where(extent[..., None, None] > 0, shares, 0.0)


def _truncated(x):
    return tf.cast(tf.cast(x, tf.int64), x.dtype)


def _resizing_weights(start, end, length, cells):
    """The same for a mask with an empty border of one cell, resized to a box of whole pixels."""
    middle, half = (start + end) / 2, (end - start) / 2 * ((cells + 2) / cells)
    first = _truncated(middle - half)[..., None]
    extent = tf.maximum(_truncated(middle + half)[..., None] - first + 1, 1.0)
    pixel = tf.range(length, dtype=start.dtype) - first
    place = tf.clip_by_value((pixel + 0.5) * (cells + 2) / extent - 0.5, 0.0, cells + 1.0)
    cell = tf.range(cells, dtype=start.dtype) + 1
    shares = tf.maximum(1.0 - tf.abs(place[..., None] - cell), 0.0)
    return tf.where(((pixel >= 0) & (pixel < extent))[..., None], shares, 0.0)
