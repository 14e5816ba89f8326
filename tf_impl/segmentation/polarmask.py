"""PolarMask: every point of a pyramid predicts its class, its box, and the outline's distance along 36 rays.

"PolarMask: Single Shot Instance Segmentation with Polar Representation", 2019, arXiv:1909.13226. Parameter names:
xieenze/PolarMask ``mmdet/models/anchor_heads/polarmask_head.py`` (Apache-2.0). What to look at: the loss of a mask is
that of 36 numbers: ray lengths replace areas in an IoU. The convolution that predicts offsets is called ``conv_offset``
    here, in the reference ``conv_offset_mask``, and ``conv2_offset`` in its trunk.

Mirror notes:
- NHWC here, NCHW in PyTorch, see ``detection/_dense.py``.
- Crossings are counted by ``scatter_add`` along rows in PyTorch, by flat indices here.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.points import boxes_of_distances
from tf_impl.boxes.results import results
from tf_impl.classification.resnet import CONV, DEFORM
from tf_impl.detection._dense import (
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    dense_neck,
    level_points,
    one_hot,
    rows,
)
from tf_impl.detection.faster_rcnn import pyramid_backbone
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.deform_conv import ModulatedDeformConv2dPack
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.nms import batched_nms
from tf_impl.layers.normalization import GroupNormalization
from tf_impl.layers.rows import take_rows
from tf_impl.layers.scale import Scale
from tf_impl.layers.top_k import top_k
from tf_impl.losses.dense import binary_cross_entropy, iou_loss
from tf_impl.losses.focal import sigmoid_focal_loss

__all__ = [
    "PolarMaskCriterion",
    "PolarMaskHead",
    "PolarMaskPostProcess",
    "fill_polygons",
    "polar_iou_loss",
    "polarmask_r50",
    "polarmask_r50_dcn",
    "polarmask_r101",
]

RAYS = 36
CENTRAL = 0.5  # added to the centredness before it is multiplied by the class's probability


def deformable_tower(filters: int, num_convs: int, norm_groups: int) -> list[keras.layers.Layer]:
    """Deformable 3x3 convolutions, each with group normalisation and ReLU."""
    layers = []
    for _ in range(num_convs):
        conv = ModulatedDeformConv2dPack(filters, 3, padding=1)
        layers += [conv, GroupNormalization(norm_groups), keras.layers.ReLU()]
    return layers


@keras.saving.register_keras_serializable("diptych")
class PolarMaskHead(DenseHead):
    """Classes, distances, centredness and rays of every point, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the three towers, see :class:`DenseHead`.
        strides: of the levels.
        deform: whether the towers' convolutions are deformable, with a mask and a bias.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits; ``"reg_p3"`` ... (N, H, W, 4) left, top, right, bottom, in
        pixels; ``"ctr_p3"`` ... (N, H, W, 1) logits; ``"rays_p3"`` ... (N, H, W, 36) in pixels, the first one down, the
        tenth to the right.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        strides: tuple[int, ...] = STRIDES,
        deform: bool = False,
        **kwargs,
    ):
        super().__init__(channels, 0 if deform else num_convs, norm_groups, **kwargs)
        if deform:
            for name in ("cls_convs", "reg_convs", "mask_convs"):
                setattr(self, name, deformable_tower(channels, num_convs, norm_groups))
        else:
            options = dict(norm="group", norm_groups=norm_groups, kernel_initializer=SmallNormal)
            self.mask_convs = [ConvModule(channels, 3, padding=1, **options) for _ in range(num_convs)]
        self.polar_cls = self.last(num_classes, PRIOR_BIAS)
        self.polar_reg = self.last(4)
        self.polar_mask = self.last(RAYS)
        self.polar_centerness = self.last(1)
        self.scales_bbox = [Scale() for _ in strides]
        self.scales_mask = [Scale() for _ in strides]

    def call(self, maps, training=False):
        found = {"cls": [], "reg": [], "ctr": [], "rays": []}
        for x, of_box, of_mask in zip(maps.values(), self.scales_bbox, self.scales_mask):
            of_classes, of_boxes = self.towers(x, training)
            for conv in self.mask_convs:
                x = conv(x, training=training)
            found["cls"].append(self.polar_cls(of_classes))
            found["reg"].append(tf.exp(of_box(self.polar_reg(of_boxes))))
            found["ctr"].append(self.polar_centerness(of_classes))
            found["rays"].append(tf.exp(of_mask(self.polar_mask(x))))
        return self.named(found)


def polar_iou_loss(rays, targets):
    """Logarithm of the sum of the longer rays over that of the shorter ones (equation 8).  (..., 36) -> (...)."""
    longer, shorter = tf.where(rays > targets, rays, targets), tf.where(rays > targets, targets, rays)
    return tf.math.log(tf.reduce_sum(longer, -1) / tf.reduce_sum(shorter, -1))


@keras.saving.register_keras_serializable("diptych")
class PolarMaskCriterion(keras.layers.Layer):
    """Focal loss of the classes, overlap of boxes and of rays weighted by centredness, which has a cross-entropy.

    Args:
        alpha, gamma: of the focal loss.

    Inputs: ``outputs`` of the model; ``targets`` of all points P, level by level, see ``weights.processing``'s
        ``polar_targets``: ``"labels"`` (N, P) int64, -1 for a point without an object; ``"distances"`` (N, P, 4) and
        ``"rays"`` (N, P, 36) in pixels, positive everywhere.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_mask"``, ``"loss_centerness"``, ``"total"``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.alpha, self.gamma = alpha, gamma

    def call(self, outputs, targets):
        logits, central = rows(outputs, "cls"), rows(outputs, "ctr")[..., 0]
        labels, positive = targets["labels"], targets["labels"] >= 0  # (N, P)
        wanted = one_hot(labels, positive, logits.shape[-1], logits.dtype)
        count = tf.reduce_sum(tf.cast(positive, logits.dtype))
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        classification = tf.reduce_sum(losses) / (count + tf.cast(tf.shape(logits)[0], logits.dtype))

        distances, wanted_distances, rays, wanted_rays = (
            tf.where(positive[..., None], tf.cast(x, logits.dtype), 1.0)
            for x in (rows(outputs, "reg"), targets["distances"], rows(outputs, "rays"), targets["rays"])
        )
        share = tf.reduce_min(wanted_rays, -1) / tf.reduce_max(wanted_rays, -1)
        weight = tf.where(positive, tf.sqrt(share), 0.0)
        share = weight / tf.maximum(tf.reduce_sum(weight), 1e-6)
        pixel = tf.constant([0, 0, 1, 1], logits.dtype)  # boxes include their last pixel
        origin = tf.zeros_like(distances[..., :2])
        boxes, wanted_boxes = (boxes_of_distances(origin, x) + pixel for x in (distances, wanted_distances))
        regression = tf.reduce_sum(iou_loss(boxes, wanted_boxes) * share)
        mask = tf.reduce_sum(polar_iou_loss(rays, wanted_rays) * share)
        losses = tf.where(positive, binary_cross_entropy(central, weight), 0.0)
        centre = tf.reduce_sum(losses) / tf.maximum(count, 1)
        return {
            "loss_cls": classification,
            "loss_bbox": regression,
            "loss_mask": mask,
            "loss_centerness": centre,
            "total": classification + regression + mask + centre,
        }


def fill_polygons(polygons, size: tuple[int, int]):
    """The pixels inside polygons: those with an odd number of edges between them and the left border.

    Args:
        polygons: (N, D, V, 2) corners x and y, in pixels whose centres are integers.
        size: height and width of the image.

    Returns:
        (N, D, H, W) bool.
    """
    height, width = size
    x, y = tf.unstack(polygons[:, :, None], axis=-1)  # (N, D, 1, V)
    next_x, next_y = tf.roll(x, -1, -1), tf.roll(y, -1, -1)
    row = tf.range(height, dtype=polygons.dtype)[:, None]
    crossed = (y <= row) != (next_y <= row)  # (N, D, H, V)
    rise = tf.where(next_y == y, 1.0, next_y - y)
    first = tf.math.ceil(x + (row - y) * (next_x - x) / rise)
    first = tf.cast(tf.where(crossed, tf.clip_by_value(first, 0, width), width), tf.int64)
    lines = tf.shape(polygons, tf.int64)[0] * polygons.shape[1] * height
    place = tf.reshape(first, (-1, polygons.shape[2])) + (tf.range(lines) * (width + 1))[:, None]
    edges = tf.zeros([lines * (width + 1)], polygons.dtype)
    place = tf.reshape(place, (-1, 1))
    edges = tf.tensor_scatter_nd_add(edges, place, tf.ones_like(place[:, 0], polygons.dtype))  # mirror: flat indices
    passed = tf.cumsum(tf.reshape(edges, (-1, polygons.shape[1], height, width + 1)), 3)[..., :width]
    return passed - 2 * tf.floor(passed / 2) > 0.5


@keras.saving.register_keras_serializable("diptych")
class PolarMaskPostProcess(keras.layers.Layer):
    """The best boxes and polygons of every image, scored by the class's probability times the centredness plus 0.5.

    The best points of each level are kept, by their best class and centredness; of those the best pairs with a class.

    Args:
        score_threshold: pairs of at most this probability of the class are dropped.
        candidates: points kept per level, and pairs kept over all levels.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        strides: of the levels.
        mask_nms: whether boxes are those around the polygons instead of the predicted ones.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"polygons"`` (N, D, 36, 2) x and y and ``"boxes"`` (N, D, 4) xyxy in
        pixels, ``"scores"`` (N, D) descending, at most 1.5, ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool; where
        False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        mask_nms: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections, self.strides = iou_threshold, detections, tuple(strides)
        self.mask_nms = mask_nms

    def call(self, outputs, input_size):
        height, width = (int(n) for n in input_size)
        scores, central = tf.sigmoid(rows(outputs, "cls")), tf.sigmoid(rows(outputs, "ctr")[..., 0])
        best, found, start = tf.reduce_max(scores, -1) * central, [], 0
        levels = level_points(outputs, self.strides)
        for points in levels:
            of_level = best[:, start : start + len(points)]
            found.append(top_k(of_level, min(self.candidates, len(points)))[1] + start)
            start += len(points)
        index = tf.concat(found, 1)
        scores, central = take_rows(scores, index), take_rows(central, index)
        scores = tf.where(scores > self.score_threshold, scores * (central + CENTRAL)[..., None], 0.0)
        points_kept, classes = scores.shape[1:]
        scores, pairs = top_k(
            tf.reshape(scores, (-1, points_kept * classes)), min(self.candidates, points_kept * classes)
        )
        place = pairs // classes
        labels, index = pairs - place * classes, take_rows(index, place)

        last = tf.constant([width - 1, height - 1], scores.dtype)
        points = tf.gather(tf.constant(np.concatenate(levels), scores.dtype), index)  # (N, C, 2)
        angle = np.arange(RAYS) * (2 * math.pi / RAYS)
        direction = tf.constant(np.stack([np.sin(angle), np.cos(angle)], -1), scores.dtype)  # (36, 2)
        polygons = points[:, :, None] + take_rows(rows(outputs, "rays"), index)[..., None] * direction
        polygons = tf.minimum(tf.maximum(polygons, 0), last)
        if self.mask_nms:
            boxes = tf.concat([tf.reduce_min(polygons, 2), tf.reduce_max(polygons, 2)], -1)
        else:
            boxes = boxes_of_distances(points, take_rows(rows(outputs, "reg"), index))
            boxes = tf.minimum(tf.maximum(boxes, 0), tf.tile(last, [2]))
        pixel = tf.constant([0, 0, 1, 1], scores.dtype)  # boxes include their last pixel
        kept, valid = batched_nms(boxes + pixel, scores, labels, scores > 0, self.iou_threshold, self.detections)
        polygons = take_rows(polygons, kept)
        return {
            "masks": fill_polygons(polygons, (height, width)) & valid[..., None, None],
            "polygons": tf.where(valid[..., None, None], polygons, 0.0),
            **results(boxes, scores, labels, kept, valid),
        }


def polarmask_r50(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int = 32,
    deform: bool = False,
    **options,
) -> DenseDetector:
    conv = (CONV, *(DEFORM["v1"],) * 3) if deform else CONV
    backbone = pyramid_backbone(layers=layers, stride_in_1x1=stride_in_1x1, conv=conv, out_indices=(2, 3, 4), **options)
    head = PolarMaskHead(out_channels, num_classes, num_convs, norm_groups, deform=deform)
    return DenseDetector(backbone, dense_neck(backbone, out_channels, "on_output", True), head)


def polarmask_r50_dcn(deform: bool = True, **options) -> DenseDetector:
    """PolarMask with deformable convolutions in the trunk's stages 2 to 4, without a mask, and in the towers."""
    return polarmask_r50(deform=deform, **options)


def polarmask_r101(layers=(3, 4, 23, 3), **options) -> DenseDetector:
    return polarmask_r50(layers=layers, **options)
