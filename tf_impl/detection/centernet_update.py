"""CenterNet over a pyramid: every cell predicts how near an object's middle is, and its distances to the four sides.

"Probabilistic two-stage detection", 2021, arXiv:2103.07461, section 4.1; it is the first stage there.
Parameter names: mmdet ``dense_heads/centernet_update_head.py`` (Apache-2.0).
What to look at: boxes are learnt at the cells around an object's middle on the levels that suit its size; for classes,
cells whose boxes are already good also count as middles.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.iou import box_area
from tf_impl.boxes.points import boxes_of_distances, distances_to_sides
from tf_impl.detection._dense import (
    EPS,
    LEVELS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    dense_backbone,
    level_points,
    rows,
)
from tf_impl.detection.fcos import FCOSPostProcess
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.layers.scale import Scale
from tf_impl.layers.top_k import argmax, top_k
from tf_impl.losses.box import giou_loss
from tf_impl.necks.fpn import FPN

__all__ = [
    "CenterNetUpdateCriterion",
    "CenterNetUpdateFPN",
    "CenterNetUpdateHead",
    "centernet_update_postprocess",
    "centernet_update_r18",
    "centernet_update_r50_caffe",
]

RANGES = ((0, 80), (64, 160), (128, 320), (256, 640), (512, 1e9))  # of half an object's diagonal, in pixels
WINDOW = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])  # from an object's middle, in cells
NOWHERE = 1e9  # distance and loss of an ignored cell
LEAST = 1e-4  # lower bound of targets, which are 0 below it, and of probabilities
TINY = 1e-12  # in the logarithms


@keras.saving.register_keras_serializable("diptych")
class CenterNetUpdateFPN(FPN):
    """:class:`FPN` of P3 to P7, the last two from P5, with Caffe2's initial values, by the number of inputs.

    Args:
        in_channels, out_channels: as there.

    Inputs, returns: as for :class:`FPN`.
    """

    def __init__(self, in_channels: Mapping[str, int], out_channels: int = 256, **kwargs):
        super().__init__(in_channels, out_channels, len(LEVELS), "on_output", True, **kwargs)
        options = dict(activation=None, kernel_initializer="lecun_uniform")
        self.lateral_convs = [ConvModule(out_channels, 1, **options) for _ in self.used]
        strides = [1] * len(self.used) + [2] * (len(LEVELS) - len(self.used))
        self.fpn_convs = [ConvModule(out_channels, 3, strides=stride, padding=1, **options) for stride in strides]


@keras.saving.register_keras_serializable("diptych")
class CenterNetUpdateHead(DenseHead):
    """Classes and distances of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        in_pixels: whether distances are multiplied by the stride, as in mmdet's evaluation; otherwise they are in
            strides.
        strides: of the levels.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"reg_p3"`` ... (N, H, W, 4) left, top, right, bottom.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 4,
        norm_groups: int | None = 32,
        in_pixels: bool = False,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(channels, num_convs, norm_groups, **kwargs)
        self.in_pixels, self.strides = in_pixels, tuple(strides)
        self.conv_cls = self.last(num_classes, PRIOR_BIAS)
        self.conv_reg = self.last(4)
        self.scales = [Scale() for _ in strides]

    def call(self, maps, training=False):
        found = {"cls": [], "reg": []}
        for x, scale, stride in zip(maps.values(), self.scales, self.strides):
            of_classes, of_boxes = self.towers(x, training)
            found["cls"].append(self.conv_cls(of_classes))
            found["reg"].append(tf.nn.relu(scale(self.conv_reg(of_boxes))) * (stride if self.in_pixels else 1))
        return self.named(found)


@keras.saving.register_keras_serializable("diptych")
class CenterNetUpdateCriterion(keras.layers.Layer):
    """Focal loss of the classes against peaks, GIoU loss of the boxes.

    An object is a peak in the map of its class on every level, 1 in the cell of its middle. Its box is learnt at those
    of the 3x3 cells around that lie inside it, on the levels whose range contains its size; of several objects the
    nearest counts. Positive for the class are its middle's cells on these levels, and those of all levels' 3x3 cells
    whose boxes are among the best.

    Args:
        overlap: the higher, the narrower the peaks: their variance is ((1 - overlap) / (1 + overlap)) ** 2 of the area.
        radius: lower bound of the root of twice this variance, in pixels.
        more_loss: upper bound of the GIoU loss of a positive cell's box.
        more_cells: rank, among 45 cells, that a positive cell's box must beat.
        box_weight: of the loss of boxes.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. In an image without objects every target is 0; mmdet, which excludes
        such images from training, would use the number of classes.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        overlap: float = 0.8,
        radius: float = 4.0,
        more_loss: float = 0.2,
        more_cells: int = 9,
        box_weight: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.overlap, self.radius, self.more_loss, self.more_cells = overlap, radius, more_loss, more_cells
        self.box_weight, self.strides = box_weight, tuple(strides)

    def call(self, outputs, targets):
        logits, distances = rows(outputs, "cls"), rows(outputs, "reg")  # (N, P, K), (N, P, 4)
        dtype, classes = logits.dtype, logits.shape[-1]
        boxes, labels, valid = tf.cast(targets["boxes"], dtype), targets["labels"], targets["valid"]
        heat, wanted, positive = self.assign(outputs, boxes, labels, valid, classes)

        chance = tf.clip_by_value(tf.sigmoid(logits), LEAST, 1 - LEAST)
        elsewhere = -tf.math.log(1 - chance + TINY) * tf.square(chance) * (1 - heat) ** 4
        index, chosen = self.good_cells(outputs, tf.stop_gradient(distances), boxes, valid)  # mirror: gradients are cut
        index = index * classes + labels[..., None]
        found = take_rows(tf.reshape(chance, (-1, logits.shape[1] * classes)), index)  # (N, M, 45)
        at_peaks = tf.where(chosen, -tf.math.log(found + TINY) * tf.square(1 - found), 0.0)
        count = tf.maximum(tf.reduce_sum(tf.cast(chosen, dtype)), 1.0) + EPS
        classification = (0.25 * tf.reduce_sum(at_peaks) + 0.75 * tf.reduce_sum(elsewhere)) / count

        # a cell without an object has a dummy box for prediction and target: finite, and masked
        wanted, distances = (tf.where(positive[..., None], x, 1.0) for x in (wanted, distances))
        losses = tf.where(positive, self.box_losses(distances, wanted), 0.0)
        count = tf.maximum(tf.reduce_sum(tf.cast(positive, dtype)), 1.0) + EPS
        regression = self.box_weight * tf.reduce_sum(losses) / count
        return {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}

    def assign(self, outputs, boxes, labels, valid, classes: int):
        """The peaks (N, P, K); the distances (N, P, 4) in strides that a cell learns, and whether it does, (N, P)."""
        levels = level_points(outputs, self.strides)
        points = tf.constant(np.concatenate(levels), boxes.dtype)  # (P, 2)
        per_level = np.array([(*RANGES[i], self.strides[i]) for i, found in enumerate(levels) for _ in found])
        least, most, stride = tf.unstack(tf.constant(per_level, boxes.dtype), axis=-1)

        sides = distances_to_sides(points, boxes[:, :, None])  # (N, M, P, 4)
        centre, reach = self.centre_and_reach(boxes)
        middle = (tf.floor(centre[:, :, None] / stride[:, None]) + 0.5) * stride[:, None]  # (N, M, P, 2)
        away = tf.abs(points - middle)
        mine = tf.reduce_all(sides > 0, -1) & tf.reduce_all(away <= stride[:, None], -1) & valid[..., None]
        mine = mine & (reach >= least) & (reach <= most)

        distance = tf.reduce_sum(tf.square(points - centre[:, :, None]), -1)
        distance = tf.where(tf.reduce_all(away == 0, -1), 0.0, distance)
        share = (1 - self.overlap) / (1 + self.overlap)
        distance = distance / tf.maximum(2 * share**2 * box_area(boxes), self.radius**2)[..., None]
        peaks = tf.exp(-distance)
        peaks = tf.where(valid[..., None] & (peaks >= LEAST), peaks, 0.0)  # (N, M, P)
        of_class = tf.cast(labels[..., None] == tf.range(classes, dtype=labels.dtype), peaks.dtype)  # (N, M, K)
        heat = tf.reduce_max(peaks[..., None] * of_class[:, :, None], 1)

        nearest = argmax(-tf.where(mine, distance, NOWHERE), 1)  # the first of equal ones
        wanted = distances_to_sides(points, take_rows(boxes, nearest)) / stride[:, None]
        return heat, wanted, tf.reduce_any(mine, 1)

    def good_cells(self, outputs, distances, boxes, valid):
        """The 3x3 cells around the objects' middles on all levels, (N, M, 45), and which are positive."""
        sizes = np.array([map_size(outputs[f"cls_{level}"])[::-1] for level in LEVELS])  # width, height
        starts = np.concatenate(([0], np.cumsum(sizes.prod(1))[:-1]))
        places = tf.constant(np.column_stack((sizes, starts)), tf.int64)
        width, height, start = tf.unstack(places[..., None], axis=1)  # (5, 1) each
        least, most, stride = tf.unstack(tf.constant(np.column_stack((RANGES, self.strides)), boxes.dtype), axis=-1)
        window = tf.constant(WINDOW, boxes.dtype)

        centre, reach = self.centre_and_reach(boxes)
        cell = tf.floor(centre[:, :, None] / stride[:, None])  # (N, M, 5, 2)
        sides = distances_to_sides((cell + 0.5) * stride[:, None], boxes[:, :, None])  # (N, M, 5, 4)
        suits = tf.reduce_all(sides >= 0, -1) & (reach >= least) & (reach <= most)
        wanted = (sides / stride[:, None])[..., None, :] + tf.concat((window, -window), -1)  # (N, M, 5, 9, 4)
        column, row = tf.unstack(tf.cast(cell[..., None, :] + window, tf.int64), axis=-1)  # (N, M, 5, 9)
        there = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        there = there & tf.reduce_all(wanted >= 0, -1) & valid[..., None, None]
        middle = there & suits[..., None] & tf.reduce_all(window == 0, -1)
        shape = (-1, boxes.shape[1], len(LEVELS) * len(WINDOW))
        there, middle, index = (tf.reshape(x, shape) for x in (there, middle, start + row * width + column))
        index = tf.where(there, index, tf.zeros([], index.dtype))

        found = take_rows(distances, index)  # (N, M, 45, 4)
        losses = self.box_losses(found, tf.maximum(tf.reshape(wanted, (*shape, 4)), 0.0))
        losses = tf.where(there, losses, NOWHERE)
        losses = tf.where(middle, 0.0, losses)
        limit = tf.minimum(-top_k(-losses, self.more_cells)[0][..., -1:], self.more_loss)
        return index, losses < limit

    @staticmethod
    def centre_and_reach(boxes):
        """Middles (N, M, 2) of boxes and halves of their diagonals (N, M, 1)."""
        size = boxes[..., 2:] - boxes[..., :2]
        return (boxes[..., :2] + boxes[..., 2:]) / 2, tf.sqrt(tf.reduce_sum(tf.square(size), -1, keepdims=True)) / 2

    @staticmethod
    def box_losses(distances, wanted):
        """GIoU loss of boxes given by their distances from a point.  (..., 4) twice -> (...)."""
        origin = tf.zeros_like(distances[..., :2])
        boxes = (boxes_of_distances(origin, x) for x in (distances, wanted))
        return giou_loss(*boxes, eps=1e-6, guard="max")


def centernet_update_postprocess(**options) -> FCOSPostProcess:
    """The best boxes, suppressed by class."""
    return FCOSPostProcess(**{"iou_threshold": 0.6, "norm_on_bbox": True, **options})


def centernet_update_r18(
    depth: int = 18,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int | None = 32,
    in_pixels: bool = False,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    head = CenterNetUpdateHead(out_channels, num_classes, num_convs, norm_groups, in_pixels)
    return DenseDetector(backbone, CenterNetUpdateFPN(backbone.channels, out_channels), head)


def centernet_update_r50_caffe(depth: int = 50, stride_in_1x1: bool = True, **options) -> DenseDetector:
    return centernet_update_r18(depth=depth, stride_in_1x1=stride_in_1x1, **options)
