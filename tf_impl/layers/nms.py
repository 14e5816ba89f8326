"""Greedy non-maximum suppression with results of fixed size; one ``NonMaxSuppression`` node in ONNX.

The greedy rule goes through the boxes in descending order of score and keeps a box unless one that was kept overlaps
it. Without a loop over boxes: keep = eligible and not any(overlaps and keep), where ``overlaps[i, j]`` says that the
better box i overlaps j; the greedy choice is the only fixed point, and iteration settles from the best box downwards.
Blocks of the best boxes are settled one after the other, without those that a box kept before overlaps, until enough
are kept.

Mirror notes:
- Blocks and the fixed point are Python loops in PyTorch, in an operator of its own; ``tf.while_loop`` in TensorFlow, of
  constant shapes for XLA, so that a block is compared with places for all K results, not with those kept alone.
- The number of rows of the ONNX node depends on the data: PyTorch needs a symbolic integer for it, TensorFlow ``None``.
"""

import tensorflow as tf

from .native import exporting, onnx_node
from .top_k import top_k

__all__ = ["batched_nms", "nms"]

BLOCK = 128  # boxes that are settled together
LOWEST = -1e30  # stands for minus infinity in masked scores; infinities do not survive a masked select in ONNX


def nms(boxes_xyxy, scores, iou_threshold: float, max_outputs: int, score_threshold: float | None = None):
    """Class-agnostic suppression in every image: of two boxes with IoU > ``iou_threshold`` the one with the higher
    score stays.

    Args:
        boxes_xyxy: (N, B, 4) with x1 <= x2 and y1 <= y2, any unit; B is static. IoU has no epsilon; a box without area
            overlaps nothing.
        scores: (N, B). Of equal scores the lower index is better.
        iou_threshold: boxes overlap if their IoU is strictly larger.
        max_outputs: number of results per image, K.
        score_threshold: only scores strictly larger take part; ``None`` for all.

    Returns:
        indices: (N, K) int64, kept boxes in descending order of score, padded with 0, so that it can be used to gather.
        valid: (N, K) bool, which indices are kept boxes.

    Source:
        torchvision.ops.nms.
    """
    boxes_xyxy, scores = tf.stop_gradient(boxes_xyxy), tf.stop_gradient(scores)
    suppress = _onnx_nms if exporting() else _greedy_nms
    return suppress(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold)


def batched_nms(boxes, scores, labels, valid, iou_threshold: float, max_outputs: int):
    """Suppression within each class: boxes of different labels are moved apart, then all are passed to :func:`nms`.

    Args:
        boxes: (N, B, 4) xyxy; B is static.
        scores: (N, B), larger than -1e30.
        labels: (N, B) integer classes or levels; only boxes of the same label suppress each other.
        valid: (N, B) bool, which boxes take part.
        iou_threshold: boxes overlap if their IoU is strictly larger.
        max_outputs: number of results per image, K.

    Returns:
        indices, valid: both (N, K), as :func:`nms` returns them.

    Source:
        torchvision.ops.batched_nms (coordinate offsets). Here the offset includes negative coordinates; otherwise a box
        left of the origin would overlap the previous class.
    """
    boxes = tf.where(valid[..., None], tf.stop_gradient(boxes), tf.zeros([], boxes.dtype))
    lowest, highest = tf.minimum(tf.reduce_min(boxes, axis=(1, 2)), 0.0), tf.reduce_max(boxes, axis=(1, 2))  # (N,)
    offset = tf.cast(labels, boxes.dtype) * (highest - lowest + 1.0)[:, None]  # (N, B)
    scores = tf.where(valid, tf.stop_gradient(scores), tf.constant(LOWEST, scores.dtype))
    return nms(boxes + offset[..., None], scores, iou_threshold, max_outputs, LOWEST)


def _greedy_nms(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold):
    count = scores.shape[1]
    found = min(count, max_outputs)
    scores, order = top_k(scores, count)  # (N, B)
    boxes = tf.gather(boxes_xyxy, order, batch_dims=1)
    eligible = tf.ones_like(scores, dtype=tf.bool) if score_threshold is None else scores > score_threshold
    keep = _kept(boxes, eligible, iou_threshold, found)
    kept, position = top_k(tf.cast(keep, tf.int32), found)  # kept boxes first, in order
    valid = kept > 0
    indices = tf.where(valid, tf.gather(order, position, batch_dims=1), tf.zeros([], tf.int64))
    padding = [[0, 0], [0, max_outputs - found]]
    return tf.pad(indices, padding), tf.pad(valid, padding)


def _kept(boxes, eligible, iou_threshold, max_outputs):
    """Which boxes (N, B, 4), best first, stay: (N, B) bool. After ``max_outputs`` of an image none is looked for."""
    blocks = -(-eligible.shape[1] // BLOCK)
    rest = [[0, 0], [0, blocks * BLOCK - eligible.shape[1]]]
    rows = tf.reshape(tf.pad(boxes, [*rest, [0, 0]]), [-1, blocks, BLOCK, 4])
    eligible_rows = tf.reshape(tf.pad(eligible, rest), [-1, blocks, BLOCK])
    upper = tf.range(BLOCK)[:, None] < tf.range(BLOCK)[None, :]
    image = tf.repeat(tf.range(tf.shape(boxes)[0])[:, None], BLOCK, axis=1)  # (N, BLOCK)

    def wanting(number, keep, found, count):
        return (number < blocks) & tf.reduce_any(count < max_outputs)

    def settle_block(number, keep, found, count):
        block = tf.gather(rows, number, axis=1)
        lost = tf.reduce_any(_overlap(found[:, :-1], block, iou_threshold), axis=1)
        kept = _settle(_overlap(block, block, iou_threshold) & upper, tf.gather(eligible_rows, number, axis=1) & ~lost)
        place = tf.where(kept, count[:, None] + tf.cumsum(tf.cast(kept, tf.int32), axis=1) - 1, max_outputs)
        place = tf.stack([image, tf.minimum(place, max_outputs)], axis=2)
        found = tf.tensor_scatter_nd_update(found, place, block)
        keep |= (tf.range(blocks) == number)[:, None] & kept[:, None]
        return number + 1, keep, found, count + tf.math.count_nonzero(kept, axis=1, dtype=tf.int32)

    found = tf.zeros([tf.shape(boxes)[0], max_outputs + 1, 4], boxes.dtype)  # the last place takes what is not kept
    nothing = (0, tf.zeros_like(eligible_rows), found, tf.zeros_like(image[:, 0]))
    keep = tf.while_loop(wanting, settle_block, nothing)[1]  # mirror: blocks
    return tf.reshape(keep, [-1, blocks * BLOCK])[:, : eligible.shape[1]]


def _overlap(a, b, iou_threshold):
    """Whether boxes (N, A, 4) and (N, B, 4) overlap: (N, A, B) bool."""
    x1, y1, x2, y2 = tf.unstack(a[:, :, None], num=4, axis=-1)
    left, top, right, bottom = tf.unstack(b[:, None], num=4, axis=-1)
    width = tf.minimum(x2, right) - tf.maximum(x1, left)
    height = tf.minimum(y2, bottom) - tf.maximum(y1, top)
    shared = tf.maximum(width, 0.0) * tf.maximum(height, 0.0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - shared
    # A box without area overlaps nothing, where the quotient would be 0/0.
    return (shared > 0) & (shared / tf.where(shared > 0, union, tf.ones([], union.dtype)) > iou_threshold)


def _settle(overlaps, eligible):
    """Which boxes are kept, from ``overlaps`` (N, B, B) of better ones i with j, and which take part (N, B)."""

    def changed(keep, before):
        return tf.reduce_any(keep != before)

    def iterate(keep, before):
        return eligible & ~tf.reduce_any(overlaps & keep[..., None], axis=1), keep

    # mirror: fixed point
    return tf.while_loop(changed, iterate, iterate(eligible, eligible))[0]


def _onnx_nms(boxes_xyxy, scores, iou_threshold, max_outputs, score_threshold):
    batch = tf.shape(scores, out_type=tf.int64)[0]
    inputs = [tf.cast(boxes_xyxy, tf.float32), tf.cast(scores, tf.float32)[:, None]]
    inputs += [tf.constant([max_outputs], tf.int64), tf.constant([iou_threshold], tf.float32)]
    inputs += [] if score_threshold is None else [tf.constant([score_threshold], tf.float32)]
    # mirror: number of rows
    selected = onnx_node("NonMaxSuppression", inputs, {}, tf.int64, [None, 3])  # (image, class, box)

    image, box = selected[:, 0], selected[:, 2]  # (S,), ordered by image, then by descending score
    count = tf.reduce_sum(tf.cast(image[None, :] == tf.range(batch)[:, None], tf.int64), axis=1)  # (N,)
    first = tf.cumsum(count) - count
    row = tf.range(tf.shape(image, out_type=tf.int64)[0])
    slot = row - tf.gather(first, image)
    indices = tf.scatter_nd((image * max_outputs + slot)[:, None], box, [batch * max_outputs])
    valid = tf.range(max_outputs, dtype=tf.int64)[None, :] < count[:, None]
    return tf.reshape(indices, [-1, max_outputs]), valid
