"""RepPoints' baseline: the nine points are a grid on a box that is regressed twice.

"RepPoints: Point Set Representation for Object Detection", 2019, arXiv:1904.11490, section 5.2.
Parameter names: mmdet ``dense_heads/reppoints_head.py`` with ``use_grid_points`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: the values of a cell are on the last axis, there on axis 1.
- Gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.assignment import assign_max_iou
from tf_impl.boxes.iou import box_area, pairwise_iou
from tf_impl.detection._dense import LEVELS, PRIOR_BIAS, DenseDetector, DenseHead, dense_backbone, level_points, rows
from tf_impl.detection.reppoints import (
    FOLLOWED,
    POINTS,
    TAPS,
    UNIT,
    PointConv,
    RepPointsCriterion,
    RepPointsPostProcess,
)
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.necks.fpn import FPN

__all__ = [
    "RepPointsCriterion",
    "RepPointsGridCriterion",
    "RepPointsGridHead",
    "RepPointsPostProcess",
    "reppoints_bbox_r50_center_fpn_gn_grid",
    "reppoints_bbox_r50_fpn_gn_grid",
]

LEAST_SIZE = 1e-6  # of a box that is regressed again, in strides


def regressed(numbers, centre, size):
    """Boxes that are moved and scaled.

    Args:
        numbers: (N, H, W, 4) shift of x and y in sizes, logarithms of the scales of width and height.
        centre, size: x and y, width and height of the previous boxes, (N, H, W, 2) or one number for all.

    Returns:
        first corner and size (N, H, W, 2).
    """
    wide = size * tf.exp(numbers[..., 2:])  # mirror: last axis
    return centre + size * numbers[..., :2] - wide / 2, wide


@keras.saving.register_keras_serializable("diptych")
class RepPointsGridHead(DenseHead):
    """Classes and two boxes of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"init_p3"`` ... and ``"reg_p3"`` ... (N, H, W, 4), the first
        and the refined box: xyxy from the cell's point, in strides.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 3, norm_groups: int | None = 32, **kwargs):
        super().__init__(channels, num_convs, norm_groups, **kwargs)
        self.reppoints_cls_conv = PointConv(channels)
        small = {"kernel_initializer": SmallNormal, "bias_initializer": "zeros"}
        bias = keras.initializers.Constant(PRIOR_BIAS)
        self.reppoints_cls_out = Conv2D(num_classes, 1, **{**small, "bias_initializer": bias})
        self.reppoints_pts_init_conv = Conv2D(channels, 3, padding=1, **small)
        self.reppoints_pts_init_out = Conv2D(4, 1, **small)
        self.reppoints_pts_refine_conv = PointConv(channels)
        self.reppoints_pts_refine_out = Conv2D(4, 1, **small)

    def call(self, maps, training=False):
        found = {"cls": [], "init": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x, training)
            first = self.reppoints_pts_init_out(tf.nn.relu(self.reppoints_pts_init_conv(of_boxes)))
            corner, size = regressed(first, 0.0, float(UNIT))
            grid = tf.constant((TAPS + 1) / 2, first.dtype)
            # y and x of the nine points
            points = tf.tile(corner[..., ::-1], (1, 1, 1, POINTS)) + tf.tile(size[..., ::-1], (1, 1, 1, POINTS)) * grid
            fixed = tf.stop_gradient(points)  # mirror: Gradients are cut
            offset = (1 - FOLLOWED) * fixed + FOLLOWED * points - tf.constant(TAPS, first.dtype)
            logits = self.reppoints_cls_out(tf.nn.relu(self.reppoints_cls_conv(of_classes, offset)))
            second = self.reppoints_pts_refine_out(tf.nn.relu(self.reppoints_pts_refine_conv(of_boxes, offset)))
            centre, before = tf.stop_gradient(corner + size / 2), tf.stop_gradient(tf.maximum(size, LEAST_SIZE))
            refined, wide = regressed(second, centre, before)
            found["cls"].append(logits)
            found["init"].append(tf.concat((corner, corner + size), -1))
            found["reg"].append(tf.concat((refined, refined + wide), -1))
        return self.named(found)


@keras.saving.register_keras_serializable("diptych")
class RepPointsGridCriterion(RepPointsCriterion):
    """As :class:`RepPointsCriterion`, but the first box is learned where a square of four strides overlaps an object.

    Args, inputs and returns: as there; ``positive`` and ``negative`` are overlaps of both assignments.
    """

    def call(self, outputs, targets):
        found = super().call(outputs, targets)
        first, levels = rows(outputs, "init"), level_points(outputs, self.strides, 0.0)
        counts = [len(points) for points in levels]
        points, stride = np.tile(np.concatenate(levels), 2), np.repeat(self.strides, counts)[:, None]
        points, unit = tf.constant(points, first.dtype), tf.constant(UNIT * stride, first.dtype)
        boxes = tf.cast(targets["boxes"], first.dtype)
        squares = points + unit * tf.constant([-0.5, -0.5, 0.5, 0.5], first.dtype)
        valid = targets["valid"] & (box_area(boxes) > 0)
        matched = assign_max_iou(pairwise_iou(boxes, squares, 1e-6), valid, self.positive, self.negative, "forced")
        losses = self._box_loss(first * unit / UNIT + points, boxes, matched, unit)
        losses = self.init_weight * losses / self._count(matched, first.dtype)
        total = found["loss_cls"] + losses + found["loss_pts_refine"]
        return {**found, "loss_pts_init": losses, "total": total}


def reppoints_bbox_r50_fpn_gn_grid(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 3,
    norm_groups: int = 32,
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    neck = FPN(backbone.channels, out_channels, len(LEVELS), "on_input", norm="group", norm_groups=norm_groups)
    return DenseDetector(backbone, neck, RepPointsGridHead(out_channels, num_classes, num_convs, norm_groups))


def reppoints_bbox_r50_center_fpn_gn_grid(**options) -> DenseDetector:
    """The same network, where the point nearest to an object learns the first box, as with points."""
    return reppoints_bbox_r50_fpn_gn_grid(**options)
