"""RepPoints: an object is nine points; deformable convolutions sample at the points, and move them once more.

"RepPoints: Point Set Representation for Object Detection", 2019, arXiv:1904.11490.
Parameter names: mmdet ``dense_heads/reppoints_head.py`` (Apache-2.0).

Mirror notes:
- NHWC here, NCHW in PyTorch: the nine points of a cell are on the last axis, there on axis 1.
- The same formulas in both panels; gradients are cut with ``stop_gradient`` here, with ``detach`` in PyTorch.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.assignment import IGNORED, assign_max_iou
from tf_impl.boxes.iou import box_area, pairwise_iou
from tf_impl.detection._dense import (
    EPS,
    LEVELS,
    PRIOR_BIAS,
    STRIDES,
    DenseDetector,
    DenseHead,
    DensePostProcess,
    dense_backbone,
    level_points,
    one_hot,
    rows,
)
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.deform_conv import deform_conv2d
from tf_impl.layers.initialization import KaimingUniform, SmallNormal
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import argmax
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.losses.focal import sigmoid_focal_loss
from tf_impl.necks.fpn import FPN

__all__ = [
    "PointConv",
    "RepPointsCriterion",
    "RepPointsHead",
    "RepPointsPostProcess",
    "boxes_of_points",
    "reppoints_minmax_r50_fpn_gn",
    "reppoints_moment_r50_fpn",
    "reppoints_moment_r50_fpn_gn",
    "reppoints_partial_minmax_r50_fpn_gn",
]

POINTS = 9
# positions of the taps of a 3x3 kernel, y and x of each
TAPS = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1), indexing="ij"), -1).reshape(-1)
FOLLOWED = 0.1  # share of the classes' and the refinement's gradient that moves the first points
LEARNED = 0.01  # share of the gradient that moves the moments' transfer
FOUR = 4  # points that the partial box encloses
UNIT = 4  # of the losses, and size of an object of level 0, in strides
FARTHEST = 1e8  # distance of an object that a point does not belong to


@keras.saving.register_keras_serializable("diptych")
class PointConv(keras.layers.Layer):
    """A deformable convolution with a kernel of its own and given offsets.

    Args:
        channels: channels of the map.

    x: (N, H, W, C), offset: (N, H, W, 18) -> (N, H, W, C).
    """

    torch_names = {"kernel": ("weight", (3, 2, 0, 1))}

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        shape = (3, 3, channels, channels)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=KaimingUniform())

    def call(self, x, offset):
        kernel = tf.convert_to_tensor(self.kernel)
        return deform_conv2d(x, offset, kernel, padding=1, border_grad="mmcv")


def boxes_of_points(points, method: str = "moment", moment_transfer=None):
    """The box that the points of a cell represent.

    Args:
        points: (N, H, W, 18), y and x of nine points.
        method: "moment", their mean plus and minus their deviations times the exponentials of two numbers;
            "minmax", around all of them; "partial_minmax", around the first four.
        moment_transfer: (2,) the numbers for the width and the height, of "moment" only.

    Returns:
        (N, H, W, 4) xyxy.
    """
    y, x = tf.unstack(tf.reshape(points, (-1, *points.shape[1:3], POINTS, 2)), axis=-1)  # mirror: last axis
    if method == "moment":
        transfer = LEARNED * moment_transfer + (1 - LEARNED) * tf.stop_gradient(
            moment_transfer
        )  # mirror: gradients are cut
        (x, width), (y, height) = moments(x), moments(y)
        width, height = width * tf.exp(transfer[0]), height * tf.exp(transfer[1])
        return tf.concat((x - width, y - height, x + width, y + height), -1)
    if method == "partial_minmax":
        x, y = x[..., :FOUR], y[..., :FOUR]
    return tf.concat([side(of, -1, True) for side in (tf.reduce_min, tf.reduce_max) for of in (x, y)], -1)


def moments(x):
    """(N, H, W, 9) -> mean and unbiased deviation, (N, H, W, 1) each."""
    mean = tf.reduce_mean(x, -1, True)
    variance = tf.reduce_sum(tf.square(x - mean), -1, True) / (POINTS - 1)
    # the root has no gradient where all points coincide, as in the reference
    return mean, tf.where(variance > 0, tf.sqrt(tf.where(variance > 0, variance, 1.0)), 0.0)


@keras.saving.register_keras_serializable("diptych")
class RepPointsHead(DenseHead):
    """Classes and two boxes of every cell, by convolutions that all levels share.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs, norm_groups: of the towers, see :class:`DenseHead`.
        method: see :func:`boxes_of_points`.

    Inputs: dict of five levels (N, H, W, C).
    Returns: dict: ``"cls_p3"`` ... (N, H, W, K) logits, ``"init_p3"`` ... and ``"reg_p3"`` ... (N, H, W, 4), the box of
        the first and of the refined points: xyxy from the cell's point, in strides.
    Raises: ValueError if ``method`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int = 3,
        norm_groups: int | None = 32,
        method: str = "moment",
        **kwargs,
    ):
        super().__init__(channels, num_convs, norm_groups, **kwargs)
        if method not in ("moment", "minmax", "partial_minmax"):
            raise ValueError(f"method={method!r} must be 'moment', 'minmax' or 'partial_minmax'")
        self.method = method
        self.moment_transfer = None
        if method == "moment":
            self.moment_transfer = self.add_weight(name="moment_transfer", shape=(2,), initializer="zeros")
        self.reppoints_cls_conv = PointConv(channels)
        small = {"kernel_initializer": SmallNormal, "bias_initializer": "zeros"}
        bias = keras.initializers.Constant(PRIOR_BIAS)
        self.reppoints_cls_out = Conv2D(num_classes, 1, **{**small, "bias_initializer": bias})
        self.reppoints_pts_init_conv = Conv2D(channels, 3, padding=1, **small)
        self.reppoints_pts_init_out = Conv2D(2 * POINTS, 1, **small)
        self.reppoints_pts_refine_conv = PointConv(channels)
        self.reppoints_pts_refine_out = Conv2D(2 * POINTS, 1, **small)

    def call(self, maps, training=False):
        transfer = None if self.moment_transfer is None else tf.convert_to_tensor(self.moment_transfer)
        found = {"cls": [], "init": [], "reg": []}
        for x in maps.values():
            of_classes, of_boxes = self.towers(x, training)
            first = self.reppoints_pts_init_out(tf.nn.relu(self.reppoints_pts_init_conv(of_boxes)))
            fixed = tf.stop_gradient(first)
            taps = tf.constant(TAPS, first.dtype)
            offset = (1 - FOLLOWED) * fixed + FOLLOWED * first - taps
            logits = self.reppoints_cls_out(tf.nn.relu(self.reppoints_cls_conv(of_classes, offset)))
            refined = (
                self.reppoints_pts_refine_out(tf.nn.relu(self.reppoints_pts_refine_conv(of_boxes, offset))) + fixed
            )
            found["cls"].append(logits)
            found["init"].append(boxes_of_points(first, self.method, transfer))
            found["reg"].append(boxes_of_points(refined, self.method, transfer))
        return self.named(found)


def assign_nearest(boxes, valid, points, level_of, levels: int):
    """Assign to every object the point nearest to its centre, on the level that suits its size.

    Args:
        boxes: (N, M, 4) xyxy in pixels.
        valid: (N, M) bool, which slots hold objects.
        points: (P, 2) in pixels.
        level_of: (P,) index of every point's level.
        levels: number of levels.

    Returns:
        (N, P) int64: the object, the nearer of two; -1 for none.
    """
    size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-6)
    # the mean of the logarithms of both sides in units of 4 pixels, truncated to an integer: powers of 4 of the area
    area = size[..., 0] * size[..., 1] / UNIT**2
    suits = sum(tf.cast(area >= 4.0 ** (3 + i), tf.int64) for i in range(1, levels))  # (N, M)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (points - centre[:, :, None]) / size[:, :, None]
    distance = tf.sqrt(tf.reduce_sum(tf.square(away), -1))  # (N, M, P)
    distance = tf.where(suits[..., None] == level_of, distance, FARTHEST)
    every = tf.range(points.shape[0], dtype=tf.int64)
    mine = (argmax(-distance, 2)[..., None] == every) & valid[..., None]
    distance = tf.where(mine, distance, FARTHEST)
    return tf.where(tf.reduce_any(mine, 1), argmax(-distance, 1), -tf.ones([], tf.int64))


@keras.saving.register_keras_serializable("diptych")
class RepPointsCriterion(keras.layers.Layer):
    """Focal loss of the classes and smooth L1 loss of both boxes.

    The first box is learned by the point nearest to an object, the class and the second box by the points whose first
    boxes overlap it.

    Args:
        alpha, gamma: of the focal loss.
        beta: of the smooth L1 losses, in units of four strides.
        init_weight, refine_weight: factors of the losses of the first and of the second box.
        positive, negative: overlaps of the second assignment, see :func:`assign_max_iou`.
        strides: of the levels.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_pts_init"``, ``"loss_pts_refine"``, ``"total"``.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        beta: float = 0.11,
        init_weight: float = 0.5,
        refine_weight: float = 1.0,
        positive: float = 0.5,
        negative: float = 0.4,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.alpha, self.gamma, self.beta, self.strides = alpha, gamma, beta, tuple(strides)
        self.init_weight, self.refine_weight = init_weight, refine_weight
        self.positive, self.negative = positive, negative

    def call(self, outputs, targets):
        logits = rows(outputs, "cls")
        levels = level_points(outputs, self.strides, 0.0)
        counts = [len(points) for points in levels]
        points = tf.constant(np.concatenate(levels), logits.dtype)  # (P, 2)
        level_of = tf.constant(np.repeat(np.arange(len(counts)), counts), tf.int64)
        stride = tf.constant(np.repeat(self.strides, counts)[:, None], logits.dtype)
        first, second = (rows(outputs, key) * stride + tf.concat((points, points), 1) for key in ("init", "reg"))
        boxes = tf.cast(targets["boxes"], logits.dtype)

        nearest = assign_nearest(boxes, targets["valid"], points, level_of, len(LEVELS))  # (N, P)
        valid = targets["valid"] & (box_area(boxes) > 0)
        iou = pairwise_iou(boxes, tf.stop_gradient(first), 1e-6)  # mirror: gradients are cut
        matched = assign_max_iou(iou, valid, self.positive, self.negative, "forced")
        count = self._count(matched, logits.dtype)

        wanted = one_hot(take_rows(targets["labels"], matched), matched >= 0, logits.shape[-1], logits.dtype)
        losses = tf.reduce_sum(sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma), -1)
        classification = tf.reduce_sum(tf.where(matched == IGNORED, 0.0, losses)) / count
        unit = UNIT * stride
        of_first = self._box_loss(first, boxes, nearest, unit) / self._count(nearest, logits.dtype)
        of_first, of_second = self.init_weight * of_first, self._box_loss(second, boxes, matched, unit) / count
        of_second = self.refine_weight * of_second
        return {
            "loss_cls": classification,
            "loss_pts_init": of_first,
            "loss_pts_refine": of_second,
            "total": classification + of_first + of_second,
        }

    def _count(self, matched, dtype):
        """Points with an object; every image counts at least 1."""
        counts = tf.reduce_sum(tf.cast(matched >= 0, dtype), 1)
        return tf.reduce_sum(tf.maximum(counts, 1.0)) + EPS

    def _box_loss(self, found, boxes, matched, unit):
        losses = smooth_l1_loss(found / unit, take_rows(boxes, matched) / unit, self.beta)
        return tf.reduce_sum(tf.where(matched >= 0, losses, 0.0))


@keras.saving.register_keras_serializable("diptych")
class RepPointsPostProcess(DensePostProcess):
    """The best boxes, see :class:`DensePostProcess`.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: as there.

    Inputs and returns: as there.
    """

    def decode(self, outputs):
        found, levels = rows(outputs, "reg"), level_points(outputs, self.strides, 0.0)
        stride = np.repeat(self.strides, [len(points) for points in levels])[:, None]
        points = tf.constant(np.concatenate(levels), found.dtype)
        return found * tf.constant(stride, found.dtype) + tf.concat((points, points), 1)


def reppoints_moment_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 3,
    norm_groups: int | None = None,
    method: str = "moment",
    **options,
) -> DenseDetector:
    backbone = dense_backbone(depth, **options)
    norm = {} if norm_groups is None else {"norm": "group", "norm_groups": norm_groups}
    neck = FPN(backbone.channels, out_channels, len(LEVELS), "on_input", **norm)
    return DenseDetector(backbone, neck, RepPointsHead(out_channels, num_classes, num_convs, norm_groups, method))


def reppoints_moment_r50_fpn_gn(norm_groups: int = 32, **options) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, **options)


def reppoints_minmax_r50_fpn_gn(norm_groups: int = 32, method: str = "minmax", **options) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, method=method, **options)


def reppoints_partial_minmax_r50_fpn_gn(
    norm_groups: int = 32, method: str = "partial_minmax", **options
) -> DenseDetector:
    return reppoints_moment_r50_fpn(norm_groups=norm_groups, method=method, **options)
