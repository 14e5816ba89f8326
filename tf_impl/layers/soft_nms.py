"""Soft suppression: boxes that overlap a better one of their class are not dropped; their scores are lowered.

"Soft-NMS -- Improving Object Detection With One Line of Code", 2017, arXiv:1704.04503. Source: bharatsingh430/soft-nms
``lib/nms/cpu_nms.pyx``; mmcv ``soft_nms`` (Apache-2.0), which has no offset.

Mirror notes:
- The same formulas in both panels, one round per box returned.
"""

import tensorflow as tf

from tf_impl.layers.top_k import argmax

__all__ = ["batched_soft_nms"]

DROPPED = -1.0  # score of a box that was returned or dropped


def batched_soft_nms(
    boxes_xyxy,
    scores,
    labels,
    valid,
    max_outputs: int,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    min_score: float = 0.001,
    offset: float = 0.0,
):
    """The best boxes of every image, in the order they are found.

    Args:
        boxes_xyxy: (N, B, 4), any unit.
        scores: (N, B) in [0, 1].
        labels: (N, B) class of each; boxes of other classes are left alone.
        valid: (N, B) bool, which boxes take part.
        max_outputs: boxes returned, D.
        method: what a score is multiplied with: "gaussian", exp(-IoU^2 / sigma); "linear", 1 - IoU where that is above
            the threshold; "naive", 0 there.
        sigma: of "gaussian".
        iou_threshold: of "linear" and "naive".
        min_score: boxes with a lower score are dropped.
        offset: added to widths and heights, 1 if the last pixel belongs to the box.

    Returns:
        (N, D) int64 index of the boxes, (N, D) scores after suppression, (N, D) bool which are boxes.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in ("gaussian", "linear", "naive"):
        raise ValueError(f"method={method!r} must be 'gaussian', 'linear' or 'naive'")
    size = tf.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] + offset, 0.0)
    area = size[..., 0] * size[..., 1]  # (N, B)
    every = tf.range(scores.shape[1], dtype=tf.int64)
    left, found = tf.where(valid & (scores >= min_score), scores, DROPPED), []
    for _ in range(max_outputs):  # mirror: one round
        best = argmax(left, 1)[:, None]  # (N, 1)
        score, label = tf.gather(left, best, batch_dims=1), tf.gather(labels, best, batch_dims=1)
        box = tf.gather(boxes_xyxy, best, batch_dims=1)
        found.append((best, score))
        first, last = tf.maximum(box[..., :2], boxes_xyxy[..., :2]), tf.minimum(box[..., 2:], boxes_xyxy[..., 2:])
        shared = tf.maximum(last - first + offset, 0.0)
        shared = shared[..., 0] * shared[..., 1]
        union = tf.gather(area, best, batch_dims=1) + area - shared
        iou = shared / tf.where(union > 0, union, 1.0)
        if method == "gaussian":
            factor = tf.exp(-tf.square(iou) / sigma)
        else:
            factor = tf.where(iou > iou_threshold, 1 - iou if method == "linear" else tf.zeros_like(iou), 1.0)
        left = tf.where(labels == label, left * factor, left)
        left = tf.where((left < min_score) | (every == best), DROPPED, left)
    index, scores = (tf.concat(parts, 1) for parts in zip(*found))
    return index, tf.maximum(scores, 0.0), scores > 0
