"""SOLO: every cell of a grid predicts a class and a mask for the object whose centre lies in it.

"SOLO: Segmenting Objects by Locations", 2019, arXiv:1912.04488. Parameter names: mmdet ``dense_heads/solo_head.py``
and ``dense_heads/decoupled_solo_head.py`` (Apache-2.0). What to look at: a mask is a channel; the decoupled variants
have channels for rows and columns, and a mask is the product of two.

Mirror notes:
- NHWC here, NCHW in PyTorch; the mask maps are transposed before channels are picked.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_impl.classification.resnet import BasicBlock
from tf_impl.detection.faster_rcnn import pyramid_backbone
from tf_impl.layers.conv_module import ConvModule
from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.initialization import SmallNormal
from tf_impl.layers.matrix_nms import matrix_nms
from tf_impl.layers.resize import map_size, resize_bilinear
from tf_impl.layers.rows import take_rows
from tf_impl.layers.top_k import top_k
from tf_impl.losses.dice import squared_dice
from tf_impl.losses.focal import sigmoid_focal_loss
from tf_impl.necks.fpn import FPN
from tf_impl.segmentation._instances import (
    LEVELS,
    MaskDetector,
    boxes_of_masks,
    coordinates,
    strided_masks,
)

__all__ = [
    "DecoupledSOLOHead",
    "DecoupledSOLOLightHead",
    "SOLOCriterion",
    "SOLOHead",
    "SOLOPostProcess",
    "claimed_cells",
    "decoupled_solo_light_criterion",
    "decoupled_solo_light_r50_fpn",
    "decoupled_solo_r50_fpn",
    "even_levels",
    "resized",
    "solo_r18_fpn",
    "solo_r50_fpn",
    "solo_r101_fpn",
    "upper_left_peaks",
]

GRIDS = (40, 36, 24, 16, 12)
STRIDES = (8, 8, 16, 32, 32)  # of the levels after ``even_levels``
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # of the square root of an object's area, in pixels
LIGHT_RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
EPS = 1.1920929e-07


def even_levels(maps: dict) -> list:
    """P2 at half its size and P6 at the size of P5, the others unchanged: strides 8, 8, 16, 32, 32."""
    first, *middle, before, last = maps.values()
    height, width = map_size(first)
    halved = resize_bilinear(first, (height // 2, width // 2))
    return [halved, *middle, before, resize_bilinear(last, map_size(before))]


def upper_left_peaks(scores):
    """Scores not exceeded by the neighbours above, left and upper left; 0 for the others."""
    around = tf.nn.max_pool2d(tf.pad(scores, ((0, 0), (1, 0), (1, 0), (0, 0))), 2, 1, "VALID")
    return tf.where(around == scores, scores, tf.zeros([], scores.dtype))


def resized(outputs: dict) -> dict:
    """Probabilities of a model's outputs: of all masks at one size, of the classes where they have a peak."""
    found = {}
    size = map_size(next(x for key, x in outputs.items() if key.startswith("mask")))
    for key, x in outputs.items():
        x = tf.sigmoid(x)
        found[key] = upper_left_peaks(x) if key.startswith("cls") else resize_bilinear(x, size)
    return found


def flat(maps):
    """One row per channel.  (N, h, w, C) -> (N, C, h w)."""
    return tf.transpose(tf.reshape(maps, (-1, maps.shape[1] * maps.shape[2], maps.shape[3])), (0, 2, 1))


@keras.saving.register_keras_serializable("diptych")
class SOLOHead(keras.layers.Layer):
    """A tower for masks, which receives coordinates, and a tower for the classes of the grid's cells.

    Args:
        num_classes: classes K.
        channels: channels of the convolutions.
        num_convs: convolutions of each tower.
        num_grids: cells S per axis of the grid of every level.
        norm_groups: groups of the normalisation after each convolution.
        evaluated: whether to return mmdet's results in evaluation, see :func:`resized`, not logits.

    Inputs: dict of levels P2 to P6, (N, H, W, C).
    Returns: dict: ``"mask_p2"`` ... (N, 2 h, 2 w, S^2) logits, row by row of the grid, at twice the size of the level;
        ``"cls_p2"`` ... (N, S, S, K) logits. The levels have the strides 8, 8, 16, 32, 32.
    """

    towers = ("mask_convs",)

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 7,
        num_grids: tuple[int, ...] = GRIDS,
        norm_groups: int = 32,
        evaluated: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_grids, self.evaluated = tuple(num_grids), evaluated
        for name in (*self.towers, "cls_convs"):
            convs = [
                ConvModule(
                    channels, 3, padding=1, norm="group", norm_groups=norm_groups, kernel_initializer=SmallNormal
                )
                for _ in range(num_convs)
            ]
            setattr(self, name, convs)
        self.make_outputs()
        self.conv_cls = self._last(num_classes, 3)

    @staticmethod
    def _last(filters: int, kernel_size: int) -> Conv2D:
        """An output convolution."""
        return Conv2D(
            filters,
            kernel_size,
            padding=kernel_size // 2,
            kernel_initializer=SmallNormal(),
            bias_initializer=keras.initializers.Constant(PRIOR_BIAS),
        )

    def make_outputs(self):
        """The last convolutions of the masks."""
        self.conv_mask_list = [self._last(grid**2, 1) for grid in self.num_grids]

    def masks(self, x, level: int, training=False) -> dict:
        """Maps of one level's masks by key."""
        return {"mask": self.conv_mask_list[level](self.tower(self.mask_convs, x, coordinates(x), training))}

    def tower(self, convs, x, where, training=False):
        """Convolutions on a map and its coordinates, upsampled by two."""
        x = tf.concat([x, where], -1)
        for conv in convs:
            x = conv(x, training=training)
        height, width = map_size(x)
        return resize_bilinear(x, (2 * height, 2 * width))

    def call(self, maps, training=False):
        found = {}
        for i, (name, x) in enumerate(zip(maps, even_levels(maps))):
            found |= {f"{key}_{name}": masks for key, masks in self.masks(x, i, training).items()}
            y = resize_bilinear(x, (self.num_grids[i], self.num_grids[i]))
            for conv in self.cls_convs:
                y = conv(y, training=training)
            found[f"cls_{name}"] = self.conv_cls(y)
        return resized(found) if self.evaluated else found


@keras.saving.register_keras_serializable("diptych")
class DecoupledSOLOHead(SOLOHead):
    """The mask of a cell is the product of a map of its column and a map of its row, each with its own tower.

    Args, inputs: see :class:`SOLOHead`.
    Returns: the same, with ``"mask_x_p2"`` ... and ``"mask_y_p2"`` ... (N, 2 h, 2 w, S) instead of the masks.
    """

    towers = ("mask_convs_x", "mask_convs_y")

    def make_outputs(self):
        for axis in "xy":
            setattr(self, f"conv_mask_list_{axis}", [self._last(grid, 3) for grid in self.num_grids])

    def masks(self, x, level, training=False):
        where = coordinates(x)
        return {
            "mask_x": self.conv_mask_list_x[level](self.tower(self.mask_convs_x, x, where[..., :1], training)),
            "mask_y": self.conv_mask_list_y[level](self.tower(self.mask_convs_y, x, where[..., 1:], training)),
        }


@keras.saving.register_keras_serializable("diptych")
class DecoupledSOLOLightHead(DecoupledSOLOHead):
    """The same with one tower for both.

    Args, inputs, returns: see :class:`DecoupledSOLOHead`.
    """

    towers = ("mask_convs",)

    def masks(self, x, level, training=False):
        x = self.tower(self.mask_convs, x, coordinates(x), training)
        return {"mask_x": self.conv_mask_list_x[level](x), "mask_y": self.conv_mask_list_y[level](x)}


def claimed_cells(targets: dict, grid: int, limits: tuple[float, float], dtype):
    """Which cells of a level's grid belong to which objects: at most nine around the centre of the mask.

    Args:
        targets: see :class:`SOLOCriterion`.
        grid: cells per axis.
        limits: smallest and largest square root of the area of an object's box.
        dtype: of the result.

    Returns:
        first: (N, M, 2) row and column of the first cell.
        last: (N, M, 2) those of the last one.
        present: (N, M) bool, which objects have cells on the level.
    """
    masks, boxes = tf.cast(targets["masks"], dtype), tf.cast(targets["boxes"], dtype)
    size = tf.constant(tuple(masks.shape[2:]), dtype)
    place = [tf.range(n, dtype=dtype) for n in masks.shape[2:]]
    area = tf.reduce_sum(masks, (2, 3))
    down, across = tf.reduce_sum(masks, 3) * place[0], tf.reduce_sum(masks, 2) * place[1]
    centre = tf.stack([tf.reduce_sum(down, 2), tf.reduce_sum(across, 2)], -1)
    centre = centre / tf.maximum(area, 1e-6)[..., None]  # (N, M, 2), row and column
    sides = tf.reverse(boxes[..., 2:] - boxes[..., :2], [-1])

    def cell(where):
        return tf.floor(where / size / (1 / grid))

    first = tf.maximum(tf.maximum(cell(centre - 0.1 * sides), 0), cell(centre) - 1)
    last = tf.minimum(tf.minimum(cell(centre + 0.1 * sides), grid - 1), cell(centre) + 1)
    scale = tf.sqrt(sides[..., 0] * sides[..., 1])
    present = targets["valid"] & (area > 0) & (scale >= limits[0]) & (scale <= limits[1])
    return first, last, present


@keras.saving.register_keras_serializable("diptych")
class SOLOCriterion(keras.layers.Layer):
    """Focal loss of the cells' classes, dice loss of the masks of the cells that have an object.

    An object belongs to every level whose range contains its size; a cell belongs to the last object that claims it.

    Args:
        ranges: of the levels, of the square root of an object's area in pixels.
        mask_weight: of the dice loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"masks"`` (N, M, H, W) 0 or 1, of the images' height and width,
        ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"loss_mask"``, ``"loss_cls"``, ``"total"``.
    """

    def __init__(self, ranges: tuple[tuple[float, float], ...] = RANGES, mask_weight: float = 3.0, **kwargs):
        super().__init__(**kwargs)
        self.ranges, self.mask_weight = tuple(tuple(limits) for limits in ranges), mask_weight

    def call(self, outputs, targets):
        classification, mask, count = 0.0, 0.0, 0.0
        for level, stride, limits in zip(LEVELS, STRIDES, self.ranges):
            logits = outputs[f"cls_{level}"]  # (N, S, S, K)
            grid, slots = logits.shape[1], tf.range(1, targets["labels"].shape[1] + 1)
            first, last, present = claimed_cells(targets, grid, limits, logits.dtype)
            place = tf.range(grid, dtype=logits.dtype)[:, None]
            inside = (place >= first[:, :, None]) & (place <= last[:, :, None])
            rows, columns = tf.unstack(inside, axis=-1)  # (N, M, S)
            claimed = rows[..., None] & columns[:, :, None] & present[..., None, None]
            owner = tf.reduce_max(tf.where(claimed, slots[:, None, None], 0), 1)  # (N, S, S), 0 without
            label = tf.gather(targets["labels"], tf.maximum(owner - 1, 0), batch_dims=1)
            every = tf.range(logits.shape[-1], dtype=label.dtype)
            wanted = tf.cast((label[..., None] == every) & (owner > 0)[..., None], logits.dtype)
            classification = classification + tf.reduce_sum(sigmoid_focal_loss(logits, wanted))
            count = count + tf.reduce_sum(tf.cast(owner > 0, logits.dtype))

            step = tf.constant([[i, j] for i in range(3) for j in range(3)], logits.dtype)  # (9, 2)
            cells = first[:, :, None] + step  # (N, M, 9, 2)
            inside = tf.reduce_all(cells <= last[:, :, None], -1) & present[..., None]
            cells = tf.cast(tf.clip_by_value(cells, 0, grid - 1), tf.int32)
            row, column = tf.unstack(tf.reshape(cells, (-1, 9 * slots.shape[0], 2)), axis=-1)  # (N, 9 M)
            inside = inside & self.counted(owner, row, column, slots)
            losses = self.dice(outputs, level, row, column, tf.cast(targets["masks"], logits.dtype), stride // 2)
            mask = mask + tf.reduce_sum(tf.where(inside, losses, tf.zeros([], losses.dtype)))
        loss_cls = classification / (count + 1 + EPS)
        loss_mask = self.mask_weight * mask / tf.maximum(count, 1)
        return {"loss_mask": loss_mask, "loss_cls": loss_cls, "total": loss_mask + loss_cls}

    def counted(self, owner, row, column, slots):
        """Which of the cells that objects claim they get: (N, M, 9) bool."""
        grid = owner.shape[1]
        mine = take_rows(tf.reshape(owner, (-1, grid**2)), row * grid + column)
        return tf.reshape(mine, (-1, slots.shape[0], 9)) == slots[:, None]

    def dice(self, outputs, level, row, column, masks, factor: int):
        """Losses of the masks of cells against those of their objects: (N, M, 9)."""
        size = map_size(next(outputs[key] for key in (f"mask_{level}", f"mask_x_{level}") if key in outputs))
        found = tf.reshape(probabilities(outputs, level, row, column), (-1, masks.shape[1], 9, size[0] * size[1]))
        wanted = strided_masks(masks, factor)
        height, width = wanted.shape[2:]
        wanted = tf.pad(wanted, ((0, 0), (0, 0), (0, size[0] - height), (0, size[1] - width)))  # upper left
        return squared_dice(found, tf.reshape(wanted, (-1, masks.shape[1], 1, size[0] * size[1])))


def probabilities(outputs, level: str, row, column):
    """Masks of cells (N, Q) of a level's grid, flat: (N, Q, h w)."""
    if f"mask_{level}" in outputs:
        grid = outputs[f"cls_{level}"].shape[1]
        return tf.sigmoid(take_rows(flat(outputs[f"mask_{level}"]), row * grid + column))
    x, y = flat(outputs[f"mask_x_{level}"]), flat(outputs[f"mask_y_{level}"])
    return tf.sigmoid(take_rows(x, column)) * tf.sigmoid(take_rows(y, row))


def decoupled_solo_light_criterion(**options) -> SOLOCriterion:
    """The losses with the ranges of the light variant."""
    return SOLOCriterion(**{"ranges": LIGHT_RANGES, **options})


@keras.saving.register_keras_serializable("diptych")
class SOLOPostProcess(keras.layers.Layer):
    """The best masks of every image, those of one class suppressed by matrix suppression.

    Args:
        score_threshold: pairs of cell and class of at most this probability are dropped.
        candidates: pairs considered, C.
        mask_threshold: a pixel belongs to a mask if its probability is larger.
        filter_threshold: masks whose score is smaller after suppression are dropped.
        detections: results per image, D.
        kernel, sigma: of :func:`matrix_nms`.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images.
    Returns: dict: ``"masks"`` (N, D, H, W) bool, ``"boxes"`` (N, D, 4) around them, xyxy in pixels, ``"scores"`` (N, D)
        descending, ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.1,
        candidates: int = 500,
        mask_threshold: float = 0.5,
        filter_threshold: float = 0.05,
        detections: int = 100,
        kernel: str = "gaussian",
        sigma: float = 2.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.candidates, self.mask_threshold = score_threshold, candidates, mask_threshold
        self.filter_threshold, self.detections, self.kernel, self.sigma = filter_threshold, detections, kernel, sigma

    def call(self, outputs, input_size):
        found, size = self.judged(outputs)
        grids = [found[f"cls_{level}"].shape[1] for level in LEVELS]
        classes = found[f"cls_{LEVELS[0]}"].shape[-1]
        scores = [tf.reshape(found[f"cls_{level}"], (-1, grid**2 * classes)) for level, grid in zip(LEVELS, grids)]
        scores = tf.concat(scores, 1)  # (N, P K)
        zero = tf.zeros([], scores.dtype)
        scores, pairs = top_k(scores, min(self.candidates, scores.shape[1]))
        cells = pairs // classes
        labels = pairs - cells * classes
        strides = tf.constant([s for s, g in zip(STRIDES, grids) for _ in range(g**2)], scores.dtype)
        shown = self.masks_of(found, cells, grids)  # (N, C, h w)
        masks = tf.cast(shown > self.mask_threshold, shown.dtype)
        area = tf.reduce_sum(masks, -1)
        valid = (scores > self.score_threshold) & (area > tf.gather(strides, cells))
        scores = tf.where(valid, scores * tf.reduce_sum(shown * masks, -1) / tf.maximum(area, 1), zero)

        scores, order = top_k(scores, scores.shape[1])
        labels, shown, masks = (take_rows(x, order) for x in (labels, shown, masks))
        scores = matrix_nms(masks, labels, scores, self.kernel, self.sigma)
        scores = tf.where(scores >= self.filter_threshold, scores, zero)
        scores, order = top_k(scores, min(self.detections, scores.shape[1]))
        valid = scores > 0
        shown = tf.transpose(take_rows(shown, order), (0, 2, 1))
        shown = tf.reshape(shown, (-1, *size, scores.shape[1]))
        height, width = input_size
        shown = resize_bilinear(shown, (4 * size[0], 4 * size[1]))[:, :height, :width]
        masks = tf.transpose(shown > self.mask_threshold, (0, 3, 1, 2)) & valid[..., None, None]
        labels = take_rows(labels, order)
        return {
            "masks": masks,
            "boxes": boxes_of_masks(masks, scores.dtype),
            "scores": scores,
            "labels": tf.where(valid, labels, tf.zeros([], labels.dtype)),
            "valid": valid,
        }

    def judged(self, outputs):
        """Probabilities of the outputs, and the height and width of all masks."""
        found = resized(outputs)
        return found, map_size(next(x for key, x in found.items() if key.startswith("mask")))

    def masks_of(self, found, cells, grids: list[int]):
        """Masks of cells (N, C), counted through all levels: (N, C, h w)."""
        if f"mask_{LEVELS[0]}" in found:
            return take_rows(flat(tf.concat([found[f"mask_{level}"] for level in LEVELS], -1)), cells)
        lines, start = [], 0
        for grid in grids:
            lines.append(start + np.stack(np.divmod(np.arange(grid**2), grid), -1))
            start += grid
        row, column = tf.unstack(tf.gather(tf.constant(np.concatenate(lines)), cells), axis=-1)
        x, y = (flat(tf.concat([found[f"mask_{axis}_{level}"] for level in LEVELS], -1)) for axis in "xy")
        return take_rows(x, column) * take_rows(y, row)


def solo_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    head=SOLOHead,
    channels: int = 256,
    num_convs: int = 7,
    num_grids: tuple[int, ...] = GRIDS,
    norm_groups: int = 32,
    evaluated: bool = False,
    **options,
) -> MaskDetector:
    backbone = pyramid_backbone(layers=layers, **options)
    head = head(num_classes, channels, num_convs, num_grids, norm_groups, evaluated)
    return MaskDetector(backbone, FPN(backbone.channels, out_channels), head)


def solo_r18_fpn(block=BasicBlock, layers=(2, 2, 2, 2), **options) -> MaskDetector:
    return solo_r50_fpn(block=block, layers=layers, **options)


def solo_r101_fpn(layers=(3, 4, 23, 3), **options) -> MaskDetector:
    return solo_r50_fpn(layers=layers, **options)


def decoupled_solo_r50_fpn(**options) -> MaskDetector:
    return solo_r50_fpn(head=DecoupledSOLOHead, **options)


def decoupled_solo_light_r50_fpn(num_convs: int = 4, **options) -> MaskDetector:
    return solo_r50_fpn(head=DecoupledSOLOLightHead, num_convs=num_convs, **options)
