"""CondInst: every point of a pyramid predicts the weights of a small network that draws its object's mask.

"Conditional Convolutions for Instance Segmentation", 2020, arXiv:2003.05664. Parameter names: mmdet
``dense_heads/condinst_head.py`` (Apache-2.0). What to look at: the networks of all instances run at once, as matrix
products; only their first layer sees the offset of a position from its instance.

Mirror notes:
- NHWC here, NCHW in PyTorch; the shared maps are transposed before the product.
"""

import keras
import numpy as np
import tensorflow as tf

from tf_impl.boxes.points import grid_points
from tf_impl.boxes.sampling import first_positives
from tf_impl.detection._dense import STRIDES, dense_backbone, dense_neck, level_points, rows
from tf_impl.detection.fcos import FCOSCriterion, FCOSHead, FCOSPostProcess
from tf_impl.layers.aligned_bilinear import aligned_bilinear
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.model import Model
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import take_rows
from tf_impl.losses.dice import squared_dice

__all__ = [
    "CondInst",
    "CondInstCriterion",
    "CondInstHead",
    "CondInstMaskHead",
    "CondInstPostProcess",
    "condinst_r50_fpn",
    "condinst_r101_fpn",
    "mask_centres",
    "masks_of_points",
]

CHANNELS = 8  # of the small networks
MASK_STRIDE = 8  # of the shared maps
DICE_EPS = 5e-6


@keras.saving.register_keras_serializable("diptych")
class CondInstHead(FCOSHead):
    """FCOS's head with one more convolution, for the weights of the small networks.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        mask_channels: channels of the shared maps.
        num_convs, norm_groups, in_pixels: see :class:`FCOSHead`.

    Inputs: dict of five levels (N, H, W, C).
    Returns: what :class:`FCOSHead` returns and ``"params_p3"`` ... (N, H, W, E): the weights of three layers, then
        their biases; 169 numbers for 8 shared maps.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        mask_channels: int,
        num_convs: int = 4,
        norm_groups: int = 32,
        in_pixels: bool = False,
        **kwargs,
    ):
        super().__init__(channels, num_classes, num_convs, norm_groups, True, True, True, in_pixels, **kwargs)
        self.controller = self.last(sum(parameter_counts(mask_channels)))

    def level(self, of_classes, of_boxes, scale, stride):
        found = super().level(of_classes, of_boxes, scale, stride)
        return {**found, "params": self.controller(of_boxes)}


def parameter_counts(mask_channels: int) -> tuple[int, ...]:
    """Number of weights of each of the three layers, then of biases."""
    return (CHANNELS * (mask_channels + 2), CHANNELS * CHANNELS, CHANNELS, CHANNELS, CHANNELS, 1)


@keras.saving.register_keras_serializable("diptych")
class LevelConv(keras.layers.Layer):
    """A 3x3 convolution named ``conv0``, ``conv1``, ... after its level.

    Args:
        filters: channels of the result.
        level: its index.

    x: (N, H, W, C) -> (N, H, W, filters).
    """

    def __init__(self, filters: int, level: int, **kwargs):
        super().__init__(**kwargs)
        self.level = level
        setattr(self, f"conv{level}", ConvModule(filters, 3, padding=1, norm="batch"))

    def call(self, x, training=False):
        return getattr(self, f"conv{self.level}")(x, training=training)


@keras.saving.register_keras_serializable("diptych")
class MaskBranch(keras.layers.Layer):
    """The sum of P3 to P5 at the size of P3, and convolutions on it.

    Args:
        mid_filters: channels of the convolutions.
        filters: channels of the result.
        num_convs: convolutions after the sum.

    levels: three maps (N, H_i, W_i, C), each half as high and wide as the one before -> (N, H_0, W_0, filters).
    """

    def __init__(self, mid_filters: int, filters: int, num_convs: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.convs_all_levels = [LevelConv(mid_filters, i) for i in range(3)]
        self.conv_branch = [ConvModule(mid_filters, 3, padding=1, norm="batch") for _ in range(num_convs)]
        self.conv_pred = Conv2D(filters, 1, kernel_initializer=SmallNormal, bias_initializer="zeros")

    def call(self, levels, training=False):
        found = [convs(x, training=training) for convs, x in zip(self.convs_all_levels, levels)]
        x = found[0] + aligned_bilinear(found[1], 2, (1, 2)) + aligned_bilinear(found[2], 4, (1, 2))
        for conv in self.conv_branch:
            x = conv(x, training=training)
        return self.conv_pred(x)


@keras.saving.register_keras_serializable("diptych")
class CondInstMaskHead(keras.layers.Layer):
    """The maps that all instances share.

    Args:
        mid_filters, filters, num_convs: see :class:`MaskBranch`.

    maps: dict of levels P3 to P7 -> (N, H, W, filters) of the size of P3.
    """

    def __init__(self, mid_filters: int, filters: int, num_convs: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.mask_feature_head = MaskBranch(mid_filters, filters, num_convs)

    def call(self, maps, training=False):
        return self.mask_feature_head(list(maps.values())[:3], training=training)


@keras.saving.register_keras_serializable("diptych")
class CondInst(Model):
    """Backbone, pyramid, head of points, head of shared maps.

    Args:
        backbone: returns its maps by name.
        neck: makes named levels from them.
        bbox_head: see :class:`CondInstHead`.
        mask_head: see :class:`CondInstMaskHead`.

    Inputs: (N, H, W, 3) float, normalised; height and width are multiples of 32.
    Returns: the point head's result and ``"mask_features"`` (N, H / 8, W / 8, C).
    """

    def __init__(self, backbone, neck, bbox_head, mask_head, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: 3})
        self.backbone, self.neck, self.bbox_head, self.mask_head = backbone, neck, bbox_head, mask_head

    def call(self, images, training=False):
        maps = self.neck(self.backbone(images, training=training), training=training)
        masks = self.mask_head(maps, training=training)
        return {**self.bbox_head(maps, training=training), "mask_features": masks}


def masks_of_points(outputs, cells, strides: tuple[int, ...] = STRIDES):
    """Masks drawn by the small networks of points.

    Args:
        outputs: of the model.
        cells: (N, Q) int64, points, counted through all levels.
        strides: of the levels.

    Returns:
        (N, Q, H / 4, W / 4) logits.
    """
    features = outputs["mask_features"]
    channels, (height, width) = features.shape[3], map_size(features)
    levels = level_points(outputs, strides)
    points = tf.gather(tf.constant(np.concatenate(levels), features.dtype), cells)  # (N, Q, 2)
    reach = np.repeat(strides, [len(found) for found in levels]) * MASK_STRIDE
    places = tf.constant(grid_points((height, width), MASK_STRIDE), features.dtype)
    reach = tf.gather(tf.constant(reach, features.dtype), cells)[..., None, None]
    offset = (points[:, :, None] - places) / reach

    counts, count = parameter_counts(channels), cells.shape[1]
    found = tf.split(take_rows(rows(outputs, "params"), cells), counts, -1)
    shapes = ((CHANNELS, channels + 2), (CHANNELS, CHANNELS), (1, CHANNELS))
    first, second, third = (tf.reshape(x, (-1, count, *shape)) for x, shape in zip(found, shapes))
    biases = [x[..., None] for x in found[3:]]
    kernels = tf.reshape(first[..., 2:], (-1, count * CHANNELS, channels))
    # mirror: transposed
    shared = tf.matmul(kernels, tf.reshape(features, (-1, height * width, channels)), transpose_b=True)
    shared = tf.reshape(shared, (-1, count, CHANNELS, height * width))  # the maps are those of all instances
    x = shared + tf.matmul(first[..., :2], offset, transpose_b=True) + biases[0]  # (N, Q, 8, H W)
    x = second @ tf.nn.relu(x) + biases[1]
    x = third @ tf.nn.relu(x) + biases[2]
    return aligned_bilinear(tf.reshape(x, (-1, count, height, width)), 2, (2, 3))


def mask_centres(masks):
    """Centres of masks (N, M, H, W): (N, M, 2), x and y in pixels; 0 for an empty one."""
    height, width = (tf.range(n, dtype=masks.dtype) for n in masks.shape[2:])
    moments = [tf.reduce_sum(tf.reduce_sum(masks, axis) * place, 2) for axis, place in ((2, width), (3, height))]
    return tf.stack(moments, -1) / tf.maximum(tf.reduce_sum(masks, (2, 3)), 1e-6)[..., None]


@keras.saving.register_keras_serializable("diptych")
class CondInstCriterion(FCOSCriterion):
    """FCOS's losses of points near the middle of their mask, and a dice loss of the first points' masks.

    Args:
        max_masks: points per image whose masks are drawn.
        alpha, gamma, strides: see :class:`FCOSCriterion`.

    Inputs: ``outputs`` of the model; ``targets``: those of :class:`FCOSCriterion`, and ``"masks"`` (N, M, H, W) 0 or 1,
        of the images' height and width.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"loss_mask"``, ``"total"``.
    """

    def __init__(
        self,
        max_masks: int = 300,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
        **kwargs,
    ):
        super().__init__("giou", True, 1.5, True, alpha, gamma, strides, **kwargs)
        self.max_masks = max_masks

    def centres(self, targets, boxes):
        return mask_centres(tf.cast(targets["masks"], boxes.dtype))

    def terms(self, outputs, targets, index, positive):
        found = super().terms(outputs, targets, index, positive)
        cells, drawn = first_positives(positive, self.max_masks)
        masks = tf.sigmoid(masks_of_points(outputs, cells, self.strides))
        masks = tf.reshape(masks, (-1, masks.shape[1], masks.shape[2] * masks.shape[3]))
        small = tf.cast(targets["masks"][:, :, 2::4, 2::4], masks.dtype)
        small = tf.reshape(small, (-1, small.shape[1], masks.shape[2]))
        losses = squared_dice(masks, take_rows(small, take_rows(index, cells)), DICE_EPS)
        share = tf.maximum(tf.reduce_sum(tf.cast(drawn, masks.dtype)), 1)
        return {**found, "loss_mask": tf.reduce_sum(tf.where(drawn, losses, 0.0)) / share}


@keras.saving.register_keras_serializable("diptych")
class CondInstPostProcess(FCOSPostProcess):
    """FCOS's results and the masks that their points draw.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: see :class:`FCOSPostProcess`.
        mask_threshold: a pixel belongs to a mask if its probability is larger.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: what :class:`FCOSPostProcess` returns and ``"masks"`` (N, D, H, W) bool.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
        strides: tuple[int, ...] = STRIDES,
        mask_threshold: float = 0.5,
        **kwargs,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, True, **kwargs)
        self.mask_threshold = mask_threshold

    def call(self, outputs, input_size):
        cells, found = self.detect(outputs, input_size)
        height, width = (int(n) for n in input_size)
        masks = tf.sigmoid(masks_of_points(outputs, cells, self.strides))
        masks = aligned_bilinear(masks, MASK_STRIDE // 2, (2, 3))[:, :, :height, :width]
        return {**found, "masks": (masks > self.mask_threshold) & found["valid"][..., None, None]}


def condinst_r50_fpn(
    depth: int = 50,
    num_classes: int = 80,
    out_channels: int = 256,
    num_convs: int = 4,
    norm_groups: int = 32,
    mask_mid_channels: int = 128,
    mask_channels: int = 8,
    in_pixels: bool = False,
    **options,
) -> CondInst:
    backbone = dense_backbone(depth, **options)
    neck = dense_neck(backbone, out_channels, "on_output", True)
    head = CondInstHead(out_channels, num_classes, mask_channels, num_convs, norm_groups, in_pixels)
    return CondInst(backbone, neck, head, CondInstMaskHead(mask_mid_channels, mask_channels, num_convs))


def condinst_r101_fpn(depth: int = 101, **options) -> CondInst:
    return condinst_r50_fpn(depth=depth, **options)
