"""FCIS: for every bin of a proposal, and every class, scores of being inside and outside an object.

"Fully Convolutional Instance-aware Semantic Segmentation", 2016, arXiv:1611.07709. Parameter names: msracver/FCIS
``fcis/symbols/resnet_v1_101_fcis.py`` (MIT), MXNet's with PyTorch's last parts. What to look at: the larger of the two
scores decides whether there is an object, their softmax where it is, so one score map serves both.

Boxes are xyxy in pixels, the right and lower border excluded; the reference includes its last pixel.

Mirror notes:
- NHWC here, NCHW in PyTorch; Keras infers the input widths.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.anchors import grid_anchors
from tf_impl.boxes.assignment import BACKGROUND, IGNORED, assign_max_iou
from tf_impl.boxes.coders import DeltaCoder
from tf_impl.boxes.iou import pairwise_iou
from tf_impl.boxes.sampling import has_area, sample
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.normalization import FrozenBatchNormalization
from tf_impl.layers.pooling import MaxPooling2D
from tf_impl.layers.ps_roi_pool import ps_roi_pool
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.segmentation._instances import boxes_of_masks

__all__ = [
    "FCIS",
    "FCISCriterion",
    "FCISPostProcess",
    "fcis_anchors",
    "fcis_resnet101",
    "fcis_resnet101_voc",
    "hard_rois",
    "roi_masks",
    "voted_masks",
]

STRIDE = 16
BASE = 16  # pixels, size of the anchor of scale 1
RATIOS = (0.5, 1.0, 2.0)  # height / width
SCALES = (4, 8, 16, 32)
STDS = (0.2, 0.2, 0.5, 0.5)
MASK = 0.4  # share from which on a pixel belongs to a mask
VOTER = 0.5  # IoU from which on a proposal votes on the mask of a box
ANCHORS, ROIS = 256, 128  # that an image's losses are computed from
MASK_WEIGHT = 10.0
LEAST_PROPOSAL, LEAST_DETECTION = 2.0, 2.0  # pixels


def fcis_anchors(size: tuple[int, int]) -> np.ndarray:
    """The anchors of a map (H * W * 12, 4): whole pixels, all scales of the first ratio, then those of the second."""
    width = np.round(np.sqrt(BASE * BASE / np.array(RATIOS)))
    sides = np.stack([width, np.round(width * RATIOS)], -1)[:, None] * np.array(SCALES)[:, None]  # (3, 4, 2)
    half = sides.reshape(-1, 2) / 2
    cell = np.concatenate([BASE / 2 - half, BASE / 2 + half], -1)
    return grid_anchors(cell, size, (STRIDE, STRIDE))


def cut_boxes(boxes, size: tuple[int, int]):
    """Boxes (N, B, 4) clipped to the image, at least one pixel each."""
    limit = tf.constant(size[::-1], boxes.dtype)
    low = tf.minimum(tf.maximum(boxes[..., :2], 0.0), limit - 1)
    return tf.concat([low, tf.minimum(tf.maximum(boxes[..., 2:], 1.0), limit)], -1)


def scores_conv(filters: int, kernel_size: int, padding: int = 0) -> Conv2D:
    """A convolution with small initial values."""
    return Conv2D(filters, kernel_size, padding=padding, kernel_initializer=SmallNormal, bias_initializer="zeros")


@keras.saving.register_keras_serializable("diptych")
class FCIS(Model):
    """Trunk, proposals, score maps, and the scores of proposals.

    Args:
        num_classes: classes K, without background.
        layers, width: blocks of the four stages, channels of the stem.
        rpn_channels, channels: of the convolutions before the proposals and before the scores.
        group_size, pooled_size: parts and bins of a box, see :func:`ps_roi_pool`.
        candidates, proposals: boxes before and after the suppression.
        iou_threshold: proposals overlap if their IoU is larger.

    Inputs: (N, H, W, 3) float; ``targets`` of the criterion.
    Returns: dict: ``"objectness"`` (N, A, 2) logits, 0 is background, ``"anchor_deltas"`` (N, A, 4), ``"anchors"``
        (A, 4), ``"image_size"`` (2,) int64; ``"proposals"`` (N, P, 4), rows without area are padding,
        ``"class_logits"`` (N, P, K + 1), ``"mask_logits"`` (N, P, 2, S, S), outside and inside, ``"box_deltas"`` (N, P,
        4), ``"labels"`` (N, P) int64, 0 is background, whose mask it is. With targets, P are the proposals and the
        objects, the labels theirs, and ``"matched"`` (N, P) says which object it is; otherwise, P are the proposals and
        their corrections, and the labels the most probable foreground classes.
    """

    def __init__(
        self,
        num_classes: int = 80,
        layers: tuple[int, ...] = (3, 4, 23, 3),
        width: int = 64,
        rpn_channels: int = 512,
        channels: int = 1024,
        group_size: int = 7,
        pooled_size: int = 21,
        candidates: int = 6000,
        proposals: int = 300,
        iou_threshold: float = 0.7,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.depths, self.num_classes = tuple(layers), num_classes
        self.group_size, self.pooled_size = group_size, pooled_size
        self.candidates, self.proposals, self.iou_threshold = candidates, proposals, iou_threshold
        self.rpn_coder, self.coder = DeltaCoder(), DeltaCoder(STDS)
        self.conv1 = Conv2D(width, 7, strides=2, padding=3, use_bias=False)
        self.bn_conv1 = FrozenBatchNormalization()
        self.pool1 = MaxPooling2D(3, 2, ceil_mode=True)
        for stage, name, first in self.blocks():
            planes = width * 2 ** (stage - 2)
            strides, dilation = (2 if first and stage in (3, 4) else 1), (2 if stage == 5 else 1)
            if first:
                self.add_unit(f"{name}_branch1", 4 * planes, 1, strides)
            self.add_unit(f"{name}_branch2a", planes, 1, strides)
            self.add_unit(f"{name}_branch2b", planes, 3, 1, dilation)
            self.add_unit(f"{name}_branch2c", 4 * planes, 1, 1)
        anchors, parts = len(RATIOS) * len(SCALES), group_size * group_size
        self.rpn_conv_3x3 = scores_conv(rpn_channels, 3, 1)
        self.rpn_cls_score = scores_conv(2 * anchors, 1)
        self.rpn_bbox_pred = scores_conv(4 * anchors, 1)
        self.conv_new_1 = scores_conv(channels, 1)
        self.fcis_cls_seg = scores_conv(2 * (num_classes + 1) * parts, 1)
        self.fcis_bbox = scores_conv(2 * 4 * parts, 1)

    def blocks(self):
        """Stage, name and whether it is the first of its stage, of every block."""
        for stage, depth in enumerate(self.depths, start=2):
            long = stage in (3, 4)
            names = ["a", *(f"b{i}" if long else "bcdef"[i - 1] for i in range(1, depth))]
            yield from ((stage, f"{stage}{name}", name == "a") for name in names)

    def add_unit(self, name: str, filters: int, kernel: int, strides: int, dilation_rate: int = 1):
        """A convolution with its normalisation."""
        padding = dilation_rate * (kernel // 2)
        conv = Conv2D(filters, kernel, strides=strides, padding=padding, dilation_rate=dilation_rate, use_bias=False)
        setattr(self, f"res{name}", conv)
        setattr(self, f"bn{name}", FrozenBatchNormalization())

    def unit(self, name: str, x):
        return getattr(self, f"bn{name}")(getattr(self, f"res{name}")(x))

    def trunk(self, images):
        """The maps of strides 16, of the third and of the fourth stage."""
        x, maps = self.pool1(tf.nn.relu(self.bn_conv1(self.conv1(images)))), {}
        for stage, name, first in self.blocks():
            shortcut = self.unit(f"{name}_branch1", x) if first else x
            y = tf.nn.relu(self.unit(f"{name}_branch2a", x))
            y = tf.nn.relu(self.unit(f"{name}_branch2b", y))
            x = maps[stage] = tf.nn.relu(shortcut + self.unit(f"{name}_branch2c", y))
        return maps[4], maps[5]

    def call(self, images, targets=None, training=False):
        size = map_size(images)
        middle, last = self.trunk(images)
        found, proposals = self.propose(middle, size)
        x = tf.nn.relu(self.conv_new_1(last))
        scores, boxes = self.fcis_cls_seg(x), self.fcis_bbox(x)
        if targets is not None:
            objects = tf.cast(targets["boxes"], proposals.dtype)
            present = targets["valid"] & has_area(objects)
            proposals = tf.concat([proposals, tf.where(present[..., None], objects, 0.0)], 1)
            matched = assign_max_iou(pairwise_iou(objects, proposals), present, 0.5, 0.5, None)
            matched = tf.where(has_area(proposals), matched, IGNORED)
            labels = tf.where(matched >= 0, take_rows(targets["labels"], matched) + 1, 0)
            return {**found, "matched": matched, **self.classify(scores, boxes, proposals, labels)}
        first = self.classify(scores, boxes, proposals)
        corrected = cut_boxes(self.coder.decode(first["box_deltas"], proposals), size)
        corrected = tf.stop_gradient(tf.where(has_area(proposals)[..., None], corrected, 0.0))
        second = self.classify(scores, boxes, corrected)
        return {**found, **{key: tf.concat([first[key], second[key]], 1) for key in first}}

    def propose(self, x, size: tuple[int, int]):
        """The first stage's outputs, and the proposals (N, P, 4)."""
        hidden = tf.nn.relu(self.rpn_conv_3x3(x))
        count = x.shape[1] * x.shape[2] * len(RATIOS) * len(SCALES)
        logits = tf.reshape(self.rpn_cls_score(hidden), (-1, *x.shape[1:3], 2, len(RATIOS) * len(SCALES)))
        logits = tf.reshape(tf.transpose(logits, (0, 1, 2, 4, 3)), (-1, count, 2))
        deltas = tf.reshape(self.rpn_bbox_pred(hidden), (-1, count, 4))
        anchors = tf.constant(fcis_anchors(map_size(x)), x.dtype)
        scores = tf.nn.softmax(tf.stop_gradient(logits))[..., 1]
        boxes = cut_boxes(self.rpn_coder.decode(tf.stop_gradient(deltas), anchors), size)
        valid = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= LEAST_PROPOSAL, -1)
        scores, index = top_k(tf.where(valid, scores, -1.0), min(self.candidates, scores.shape[1]))
        boxes = take_rows(boxes, index)
        index, valid = batched_nms(boxes, scores, index * 0, scores > 0, self.iou_threshold, self.proposals)
        whole = tf.constant(size, tf.int64)
        found = {"objectness": logits, "anchor_deltas": deltas, "anchors": anchors, "image_size": whole}
        return found, tf.where(valid[..., None], take_rows(boxes, index), 0.0)

    def classify(self, scores, boxes, proposals, labels=None) -> dict:
        """Scores of proposals (N, P, 4); without labels, masks of the most probable foreground classes."""
        grid = self.group_size, self.pooled_size, STRIDE
        cells, count = self.pooled_size, proposals.shape[1]
        pooled = tf.transpose(ps_roi_pool(scores, proposals, *grid), (0, 1, 4, 2, 3))
        pooled = tf.reshape(pooled, (-1, count, self.num_classes + 1, 2, cells, cells))
        logits = tf.reduce_mean(tf.reduce_max(pooled, 3), (3, 4))
        labels = argmax(logits[..., 1:]) + 1 if labels is None else labels
        deltas = tf.reduce_mean(ps_roi_pool(boxes, proposals, *grid), (2, 3))
        return {
            "proposals": proposals,
            "class_logits": logits,
            "mask_logits": tf.gather(pooled, labels, batch_dims=2),
            "box_deltas": deltas[..., 4:],  # those of the foreground
            "labels": labels,
        }


def _lines(start, end, length: int, cells: int):
    """Weight of every pixel of a line in each cell that a span of it is resized to.

    Args:
        start, end: (N, P) integers, ``end`` above ``start``.

    Returns:
        (N, P, cells, length).
    """
    extent = (end - start)[..., None]
    cell = tf.range(cells, dtype=start.dtype)
    place = tf.minimum(tf.maximum((cell + 0.5) * extent / cells - 0.5, 0.0), extent - 1)
    pixel = tf.range(length, dtype=start.dtype)
    return tf.maximum(1 - tf.abs(start[..., None, None] + place[..., None] - pixel), 0.0)


def roi_masks(proposals, matched, masks, cells: int):
    """The parts of objects' masks that lie in proposals, resized bilinearly; 1 from 0.4 on.

    Args:
        proposals: (N, P, 4).
        matched: (N, P) int64, the object; negative for any.
        masks: (N, M, H, W), 0 or 1.
        cells: height and width of the result, S.

    Returns:
        (N, P, S, S), 0 or 1.
    """
    height, width = masks.shape[2:]
    x1, y1, x2, y2 = tf.unstack(tf.floor(tf.stop_gradient(proposals) + 0.5), axis=-1)
    rows = _lines(y1, tf.maximum(y2, y1 + 1), height, cells)
    columns = _lines(x1, tf.maximum(x2, x1 + 1), width, cells)
    owner = tf.one_hot(matched, masks.shape[1], dtype=rows.dtype)  # (N, P, M)
    every = rows[:, :, None] @ tf.cast(masks, rows.dtype)[:, None]
    every = tf.matmul(every, columns[:, :, None], transpose_b=True)  # (N, P, M, S, S)
    return tf.cast(tf.reduce_sum(every * owner[..., None, None], 2) >= MASK, rows.dtype)


def hard_rois(class_logits, mask_logits, deltas, labels, masks, wanted, positive, used, count: int) -> dict:
    """Losses of every image's hardest proposals.

    Args:
        class_logits, mask_logits, deltas: (N, P, K + 1), (N, P, 2, S, S), (N, P, 4).
        labels: (N, P) int64, 0 is background.
        masks: (N, P, S, S), 0 or 1; wanted: (N, P, 4) deltas, for the positive ones.
        positive, used: (N, P) bool, which are objects, and which are proposals at all.
        count: proposals of an image.

    Returns:
        dict: ``"cls"`` (N,) mean, ``"seg"``, ``"bbox"`` (N,) sums over the chosen ones by ``count``; ``"total"``
        (N, P), the losses that decide.
    """
    entropy = -tf.gather(tf.nn.log_softmax(class_logits), labels, batch_dims=2)
    log_p = tf.nn.log_softmax(mask_logits, 2)
    pixels = -tf.where(masks > 0, log_p[:, :, 1], log_p[:, :, 0])
    segmentation = tf.where(positive, MASK_WEIGHT * tf.reduce_mean(pixels, (2, 3)), 0.0)
    regression = tf.where(positive, smooth_l1_loss(deltas, wanted), 0.0)
    total = entropy + segmentation + regression
    count = min(count, total.shape[1])
    best, index = top_k(tf.where(used, tf.stop_gradient(total), -1.0), count)
    chosen = tf.cast(best >= 0, total.dtype)
    entropy, segmentation, regression = (
        tf.reduce_sum(tf.gather(part, index, batch_dims=1) * chosen, 1) for part in (entropy, segmentation, regression)
    )
    return {
        "cls": entropy / tf.maximum(tf.reduce_sum(chosen, 1), 1.0),
        "seg": segmentation / count,
        "bbox": regression / count,
        "total": total,
    }


@keras.saving.register_keras_serializable("diptych")
class FCISCriterion(keras.layers.Layer):
    """Objectness and boxes of sampled anchors; classes, masks and boxes of the hardest proposals.

    Args:
        anchors, rois: how many per image the losses use.

    Inputs: ``outputs`` of the model, which was given the targets; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels,
        ``"labels"`` (N, M) int64 from 0 on, ``"masks"`` (N, M, H, W) 0 or 1, ``"valid"`` (N, M) bool, False for
        padding; and ``"anchor_priorities"`` (N, A), if given: the highest are sampled, otherwise the first.
    Returns: dict of scalars: ``"rpn_cls"``, ``"rpn_bbox"``, ``"cls"``, ``"seg"``, ``"bbox"``, ``"total"``.
    """

    def __init__(self, anchors: int = ANCHORS, rois: int = ROIS, **kwargs):
        super().__init__(**kwargs)
        self.anchors, self.rois, self.rpn_coder, self.coder = anchors, rois, DeltaCoder(), DeltaCoder(STDS)

    def call(self, outputs, targets):
        losses = {**self.of_anchors(outputs, targets), **self.of_proposals(outputs, targets)}
        return {**losses, "total": sum(losses.values())}

    def of_anchors(self, outputs, targets):
        logits, anchors = outputs["objectness"], outputs["anchors"]
        boxes = tf.cast(targets["boxes"], anchors.dtype)
        present = targets["valid"] & has_area(boxes)
        limit = tf.cast(tf.reverse(outputs["image_size"], (0,)), anchors.dtype)
        inside = tf.reduce_all(anchors[:, :2] >= 0, -1) & tf.reduce_all(anchors[:, 2:] <= limit, -1)
        iou = tf.where(inside, pairwise_iou(boxes, anchors), -1.0)
        matched = tf.where(inside, assign_max_iou(iou, present, 0.7, 0.3), IGNORED)
        priorities = targets.get("anchor_priorities")
        positive, negative = sample(matched >= 0, matched == BACKGROUND, self.anchors, 0.5, priorities)
        log_p, used = tf.nn.log_softmax(logits), positive | negative
        entropy = -tf.where(positive, log_p[..., 1], log_p[..., 0])
        # an anchor without an object has itself for a target: finite, and masked
        wanted = tf.where(positive[..., None], take_rows(boxes, matched), anchors)
        errors = smooth_l1_loss(outputs["anchor_deltas"], self.rpn_coder.encode(wanted, anchors), 1 / 9)
        number = tf.reduce_sum(tf.cast(used, logits.dtype))
        images = tf.cast(tf.shape(logits)[0], logits.dtype)
        return {
            "rpn_cls": tf.reduce_sum(tf.where(used, entropy, 0.0)) / tf.maximum(number, 1.0),
            "rpn_bbox": tf.reduce_sum(tf.where(positive, errors, 0.0)) / (self.anchors * images),
        }

    def of_proposals(self, outputs, targets):
        proposals, matched = outputs["proposals"], outputs["matched"]
        positive, used = matched >= 0, matched != IGNORED
        masks = roi_masks(proposals, matched, targets["masks"], outputs["mask_logits"].shape[-1])
        somewhere = tf.constant([0.0, 0.0, 1.0, 1.0], proposals.dtype)
        rois = tf.where(used[..., None], proposals, somewhere)  # log(0 / 0) of an empty slot
        objects = take_rows(tf.cast(targets["boxes"], proposals.dtype), matched)
        wanted = self.coder.encode(tf.where(positive[..., None], objects, rois), rois)
        logits = (outputs[key] for key in ("class_logits", "mask_logits", "box_deltas", "labels"))
        losses = hard_rois(*logits, masks, wanted, positive, used, self.rois)
        return {key: tf.reduce_mean(losses[key]) for key in ("cls", "seg", "bbox")}


@keras.saving.register_keras_serializable("diptych")
class FCISPostProcess(keras.layers.Layer):
    """The best boxes of every class, and their masks, voted on by all proposals at the same place.

    Args:
        score_threshold: pairs of proposal and class of at most this probability are dropped.
        candidates: pairs kept per image before suppression.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        voting: whether masks are voted on, see :func:`voted_masks`, with boxes around them; a mask of a single row or
            column is dropped. Otherwise, both are those of the best proposal.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending,
        ``"labels"`` (N, D) int64 from 0 on, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 1e-3,
        candidates: int = 4096,
        iou_threshold: float = 0.3,
        detections: int = 100,
        voting: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.voting = iou_threshold, detections, voting

    def call(self, outputs, input_size):
        proposals = outputs["proposals"]
        scores = tf.nn.softmax(outputs["class_logits"])[..., 1:]
        large = tf.reduce_all(proposals[..., 2:] - proposals[..., :2] >= LEAST_DETECTION, -1)
        count, classes = scores.shape[1:]
        every = tf.where(large[..., None], scores, -1.0)  # (N, P, K)
        scores, pairs = top_k(tf.reshape(every, (-1, count * classes)), min(self.candidates, count * classes))
        index = pairs // classes
        boxes, labels = take_rows(proposals, index), pairs - index * classes
        kept, valid = batched_nms(
            boxes, scores, labels, scores > self.score_threshold, self.iou_threshold, self.detections
        )
        boxes = tf.where(valid[..., None], take_rows(boxes, kept), 0.0)
        scores, labels, index = (take_rows(x, kept) for x in (scores, labels, index))
        inside = tf.nn.softmax(outputs["mask_logits"], 2)[:, :, 1]  # (N, P, S, S)
        if self.voting:
            votes = tf.maximum(take_rows(tf.transpose(every, (0, 2, 1)), labels), 0.0)  # (N, D, P)
            masks, boxes = voted_masks(inside, proposals, votes, boxes, input_size)
            large = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] > 1, -1)
            valid, order = top_k(tf.cast(valid & large, tf.int64), self.detections)
            valid = valid > 0
            masks, boxes, scores, labels = (take_rows(x, order) for x in (masks, boxes, scores, labels))
        else:
            masks = drawn_masks(take_rows(inside, index), boxes, input_size)
        return {
            "masks": masks & valid[..., None, None],
            "boxes": tf.where(valid[..., None], boxes, 0.0),
            "scores": tf.where(valid, scores, 0.0),
            "labels": tf.where(valid, labels, 0),
            "valid": valid,
        }


def voted_masks(masks, proposals, votes, boxes, size):
    """The mean of the masks of all proposals at the place of a box, weighted by their votes; from 0.4 on.

    As the reference does, it draws every proposal, which takes P times an image's memory.

    Args:
        masks: (N, P, S, S) in [0, 1].
        proposals: (N, P, 4), those without area have no vote.
        votes: (N, D, P), scores of the proposals for the class of each box; 0 or more.
        boxes: (N, D, 4), voted on by proposals with an IoU of at least 0.5.
        size: height and width of the image.

    Returns:
        masks: (N, D, H, W) bool.
        boxes: (N, D, 4), the smallest around them; 0 around nothing.

    Source:
        msracver/FCIS ``lib/mask/{mask_transform.py,mv_kernel.cu}``, whose masks are resized to S x S afterwards, for
        storage.
    """
    votes = tf.where(pairwise_iou(boxes, proposals) >= VOTER, votes, 0.0)
    total = tf.reduce_sum(votes, -1, keepdims=True)
    weights = votes / tf.where(total > 0, total, 1.0)  # padding rows get no votes
    drawn = tf.cast(drawn_masks(masks, proposals, size), weights.dtype)  # (N, P, H, W)
    count, height, width = drawn.shape[1:]
    voted = weights @ tf.reshape(drawn, (-1, count, height * width))
    voted = tf.reshape(voted, (-1, boxes.shape[1], height, width)) >= MASK
    return voted, boxes_of_masks(voted, boxes.dtype)


def drawn_masks(masks, boxes, size):
    """Masks (N, D, S, S) of boxes (N, D, 4), resized bilinearly into an image of a height and width; bool."""
    x1, y1, x2, y2 = tf.unstack(tf.floor(boxes + 0.5), axis=-1)
    rows = _spread(y1, tf.maximum(y2, y1 + 1), int(size[0]), masks.shape[2])
    columns = _spread(x1, tf.maximum(x2, x1 + 1), int(size[1]), masks.shape[3])
    return tf.matmul(rows @ masks, columns, transpose_b=True) >= MASK


def _spread(start, end, length: int, cells: int):
    """Weight of every cell in each pixel of a span of a line.  (N, D) -> (N, D, length, cells)."""
    pixel = tf.range(length, dtype=start.dtype)
    start, end = start[..., None], end[..., None]
    place = tf.clip_by_value((pixel - start + 0.5) * cells / (end - start) - 0.5, 0.0, cells - 1.0)
    cell = tf.range(cells, dtype=start.dtype)
    weights = tf.maximum(1 - tf.abs(place[..., None] - cell), 0.0)
    return tf.where(((pixel >= start) & (pixel < end))[..., None], weights, 0.0)


def fcis_resnet101(layers=(3, 4, 23, 3), **options) -> FCIS:
    return FCIS(layers=layers, **options)


def fcis_resnet101_voc(num_classes: int = 20, **options) -> FCIS:
    return fcis_resnet101(num_classes=num_classes, **options)
