"""Adaptive training sample selection: the anchors near an object decide which of them are positive.

"Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", 2019,
arXiv:1912.02424.

Mirror notes:
- Overlaps are written to the candidates' places by ``scatter`` in PyTorch, by one row of indices each in TensorFlow.
"""

import tensorflow as tf

from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.points import distances_to_sides
from tf_impl.layers.top_k import argmax, top_k

__all__ = ["assign_atss"]

MARGIN = 0.01  # pixels that a centre must lie inside the object


def assign_atss(boxes, valid, anchors, counts: list[int], topk: int = 9):
    """Assign an object to every anchor, or none.

    On every level, an object's candidates are the anchors whose centres are nearest to its own. Positive are those
    whose IoU is at least the mean plus the deviation over all its candidates and whose centre lies inside. An anchor
    that is positive for several objects belongs to the one that it overlaps most.

    Args:
        boxes: (N, M, 4) xyxy.
        valid: (N, M) bool, which slots hold an object.
        anchors: (A, 4) xyxy, of all levels.
        counts: anchors of each level.
        topk: candidates of each level.

    Returns:
        (N, A) int64: index of the object, or -1.

    Source: mmdet ``ATSSAssigner``.
    """
    boxes = tf.stop_gradient(boxes)
    iou = pairwise_iou(boxes, anchors, 1e-6)  # (N, M, A)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    shift = (boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2 - centres  # (N, M, A, 2)
    distance = tf.sqrt(shift[..., 0] * shift[..., 0] + shift[..., 1] * shift[..., 1])
    candidates, start = [], 0
    for count in counts:
        nearest = top_k(-distance[..., start : start + count], min(topk, count))[1]  # the first of equal distances
        candidates.append(nearest + start)
        start += count
    candidates = tf.concat(candidates, -1)  # (N, M, K)
    overlap = tf.gather(iou, candidates, axis=2, batch_dims=2)
    mean = tf.reduce_mean(overlap, -1, keepdims=True)
    variance = tf.reduce_sum(tf.square(overlap - mean), -1, keepdims=True) / (overlap.shape[-1] - 1)
    inside = tf.reduce_min(distances_to_sides(centres, boxes[:, :, None]), -1) > MARGIN  # (N, M, A)
    good = overlap >= mean + tf.sqrt(variance)
    good = good & tf.gather(inside, candidates, axis=2, batch_dims=2) & valid[..., None]
    overlap = tf.where(good, overlap, -tf.ones_like(overlap))
    row = tf.range(tf.size(valid, tf.int64))[:, None] * iou.shape[2]  # mirror: one row of indices
    place = tf.reshape(row + tf.reshape(candidates, (-1, candidates.shape[2])), (-1, 1))
    flat = tf.tensor_scatter_nd_update(tf.reshape(-tf.ones_like(iou), (-1,)), place, tf.reshape(overlap, (-1,)))
    overlap = tf.reshape(flat, tf.shape(iou))
    return tf.where(tf.reduce_max(overlap, 1) >= 0, argmax(overlap, 1), -tf.ones([], tf.int64))
