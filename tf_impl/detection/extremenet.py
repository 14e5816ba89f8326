"""ExtremeNet: an object is its topmost, leftmost, bottommost and rightmost point, with a centre peak between them.

"Bottom-up Object Detection by Grouping Extreme and Center Points", 2019, arXiv:1901.08043.
Parameter names: xingyizhou/ExtremeNet ``models/py_utils/exkp.py`` (BSD-3).
What to look at: points are grouped by geometry alone, all K^4 combinations at once.

Mirror notes:
- NHWC here, NCHW in PyTorch; a map's rows are axis 1 here, axis 2 there.
"""

import keras
import tensorflow as tf

from tf_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from tf_impl.detection._hourglass import (
    DIMS,
    MODULES,
    PRIOR_BIAS,
    HourglassTrunk,
    maps_of_stacks,
    predictions,
)
from tf_impl.layers.resize import map_size
from tf_impl.layers.rows import map_rows, take_rows
from tf_impl.layers.soft_nms import batched_soft_nms
from tf_impl.layers.top_k import top_k
from tf_impl.losses.box import smooth_l1_loss
from tf_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss

__all__ = [
    "ExtremeNet",
    "ExtremeNetCriterion",
    "ExtremeNetPostProcess",
    "edge_aggregation",
    "extremenet_hourglass104",
]

SIDES = ("t", "l", "b", "r")
EPS = 1e-4  # keeps the divisors above 0


@keras.saving.register_keras_serializable("diptych")
class ExtremeNet(HourglassTrunk):
    """Hourglasses, each with five heat maps and four offset maps.

    Args:
        stacks, dims, modules, stem, cnv_dim: of the trunk, see :class:`HourglassTrunk`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, H, W, 3) float, normalised.
    Returns: dict: ``"t_heat"``, ``"l_heat"``, ``"b_heat"``, ``"r_heat"``, ``"ct_heat"`` (N, H', W', K) logits,
        ``"t_regr"``, ``"l_regr"``, ``"b_regr"``, ``"r_regr"`` (N, H', W', 2) the point's x and y offsets, in cells;
        H' and W' are quarters, rounded up. These are of the last hourglass; those of the first have ``"_0"`` after the
        key, and so on. ``"image_size"`` (2,) int64, H and W.
    """

    def __init__(
        self,
        stacks: int = 2,
        dims: tuple[int, ...] = DIMS,
        modules: tuple[int, ...] = MODULES,
        stem: int = 128,
        cnv_dim: int = 256,
        num_classes: int = 80,
        hidden: int = 256,
        **kwargs,
    ):
        super().__init__(stacks, dims, modules, stem, cnv_dim, **kwargs)
        for side in (*SIDES, "ct"):
            setattr(self, f"{side}_heats", predictions(stacks, hidden, num_classes, PRIOR_BIAS))
        for side in SIDES:
            setattr(self, f"{side}_regrs", predictions(stacks, hidden, 2))

    def call(self, images, training=False):
        maps, found = self.stacked(images, training), {}
        for key in [f"{side}_heat" for side in (*SIDES, "ct")] + [f"{side}_regr" for side in SIDES]:
            found[key] = [head(x) for head, x in zip(getattr(self, f"{key}s"), maps)]
        size = tf.constant(map_size(images), tf.int64)
        return {**maps_of_stacks(found), "image_size": size}


@keras.saving.register_keras_serializable("diptych")
class ExtremeNetCriterion(keras.layers.Layer):
    """Focal loss of the heat maps, smooth L1 loss of the offsets at the objects' extreme points.

    Args:
        overlap: of the radius of a peak, as in the first implementations, see :func:`gaussian_radius`.
        regr_weight: factor of the second loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"extremes"`` (N, M, 4, 2) the
        topmost, leftmost, bottommost and rightmost point in pixels, ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool,
        False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"focal"``, ``"regr"``, ``"total"``, their sum; means over the hourglasses.
    """

    def __init__(self, overlap: float = 0.7, regr_weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.overlap, self.regr_weight = overlap, regr_weight

    def call(self, outputs, targets):
        heat = outputs["t_heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        image = tf.cast(tf.reverse(outputs["image_size"], (0,)), dtype)
        ratio = tf.constant([width, height], dtype) / image
        boxes = tf.minimum(tf.maximum(tf.cast(targets["boxes"], dtype), 0.0), tf.tile(image - 1, (2,)))
        points = tf.minimum(tf.maximum(tf.cast(targets["extremes"], dtype), 0.0), image - 1)  # (N, M, 4, 2)
        valid = targets["valid"] & tf.reduce_all(boxes[..., 2:] > boxes[..., :2], -1)
        size = tf.where(valid[..., None], tf.math.ceil((boxes[..., 2:] - boxes[..., :2]) * ratio), 1.0)
        radius = tf.floor(tf.maximum(gaussian_radius(size[..., 1], size[..., 0], self.overlap, corrected=False), 0.0))
        number = tf.reduce_sum(tf.cast(valid, dtype))

        places = {side: points[:, :, i] * ratio for i, side in enumerate(SIDES)}
        middle = (places["l"][..., :1] + places["r"][..., :1]) / 2, (places["t"][..., 1:] + places["b"][..., 1:]) / 2
        places["ct"] = tf.concat(middle, -1)
        cells = {side: tf.floor(place) for side, place in places.items()}
        wanted = {
            side: heat_maps(cell, radius, targets["labels"], valid, heat.shape[-1], (height, width))
            for side, cell in cells.items()
        }
        focal = regr = tf.zeros([], dtype)
        stacks = [f"_{i}" for i in range(len(outputs) // 9 - 1)] + [""]
        for stack in stacks:
            for side, cell in cells.items():
                focal = focal + heatmap_focal_loss(clamped_sigmoid(outputs[f"{side}_heat{stack}"]), wanted[side])
                if side != "ct":
                    index = tf.cast(cell[..., 1] * width + cell[..., 0], tf.int64)
                    found = take_rows(map_rows(outputs[f"{side}_regr{stack}"]), index)
                    losses = tf.where(valid, smooth_l1_loss(found, places[side] - cell), 0.0)
                    regr = regr + tf.reduce_sum(losses) / (number + EPS)
        focal, regr = focal / len(stacks), self.regr_weight * regr / len(stacks)
        return {"focal": focal, "regr": regr, "total": focal + regr}


def later(x, step: int, axis: int):
    """Shift every entry by ``step`` along ``axis``, filling with zeros."""
    kept, dropped = tf.split(x, (x.shape[axis] - step, step), axis)
    return tf.concat((tf.zeros_like(dropped), kept), axis)


def edge_aggregation(heat, axis: int, weight: float = 0.1):
    """Add to every position its neighbours along an edge, as long as their values decrease away from it.

    Args:
        heat: (N, H, W, K) in [0, 1].
        axis: 2 along rows, 1 along columns.
        weight: share of the neighbours' sum that is added.

    Returns:
        (N, H, W, K), which may be above 1.
    """
    total, size = heat, heat.shape[axis]
    for backwards in (False, True):
        x = tf.reverse(heat, (axis,)) if backwards else heat
        rising, running, step = x >= later(x, 1, axis), x, 1
        while step < size:  # sums over 2, 4, 8, ... increasing positions
            running = running + tf.where(rising, later(running, step, axis), 0.0)
            rising = rising & later(rising, step, axis)
            step *= 2
        gained = running - x
        total = total + weight * (tf.reverse(gained, (axis,)) if backwards else gained)
    return total


@keras.saving.register_keras_serializable("diptych")
class ExtremeNetPostProcess(keras.layers.Layer):
    """The best combinations of four extreme points with a centre between them, with soft suppression by class.

    Args:
        points: peaks of each side, K; all their combinations are considered.
        candidates: combinations kept.
        detections: results per image, D.
        aggregation: see :func:`edge_aggregation`.
        threshold: lower bound of the heat maps at the four points and at the centre.
        sigma, min_score: of the suppression, see :func:`batched_soft_nms`.
        ghost_score, ghost_factor: a box with a higher score that contains boxes of its class, itself included, whose
            scores add up to more than this factor times its own, spans several objects: its score is halved.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"extremes"`` (N, D, 4, 2) topmost, leftmost, bottommost and
        rightmost point in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64, ``"valid"`` (N, D) bool;
        where False, the others are 0.
    """

    def __init__(
        self,
        points: int = 40,
        candidates: int = 1000,
        detections: int = 100,
        aggregation: float = 0.1,
        threshold: float = 0.1,
        sigma: float = 0.5,
        min_score: float = 0.001,
        ghost_score: float = 0.2,
        ghost_factor: float = 3.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.points, self.candidates, self.detections = points, candidates, detections
        self.aggregation, self.threshold, self.sigma, self.min_score = aggregation, threshold, sigma, min_score
        self.ghost_score, self.ghost_factor = ghost_score, ghost_factor

    def call(self, outputs):
        size = map_size(outputs["t_heat"])
        found = {side: self._peaks(outputs, side) for side in SIDES}
        scores, index = self._combinations(found, tf.sigmoid(outputs["ct_heat"]))
        number = found["t"]["score"].shape[1]
        parts = [index // number**power % number for power in (3, 2, 1, 0)]  # (N, candidates) which peak of a side
        places = [take_rows(found[side]["place"], part) for side, part in zip(SIDES, parts)]
        image = tf.cast(tf.reverse(outputs["image_size"], (0,)), scores.dtype)
        ratio = image / tf.constant(size[::-1], scores.dtype)
        extremes = tf.concat(places, -1) * tf.tile(ratio, (4,))  # (N, candidates, 8)
        extremes = tf.minimum(tf.maximum(extremes, 0.0), tf.tile(image, (4,)))
        boxes, labels = tf.gather(extremes, (2, 1, 6, 5), axis=-1), take_rows(found["t"]["label"], parts[0])

        options = {"sigma": self.sigma, "min_score": self.min_score, "offset": 1.0}
        index, scores, valid = batched_soft_nms(boxes, scores, labels, scores > 0, self.detections, **options)
        boxes, extremes, labels = (take_rows(x, index) for x in (boxes, extremes, labels))
        scores, index = top_k(self._without_ghosts(boxes, scores, labels), self.detections)
        valid = take_rows(valid, index)
        extremes = tf.reshape(take_rows(extremes, index), (-1, self.detections, 4, 2))
        return {
            "boxes": tf.where(valid[..., None], take_rows(boxes, index), tf.zeros([], boxes.dtype)),
            "extremes": tf.where(valid[..., None, None], extremes, tf.zeros([], boxes.dtype)),
            "scores": scores,
            "labels": tf.where(valid, take_rows(labels, index), tf.zeros([], labels.dtype)),
            "valid": valid,
        }

    def _peaks(self, outputs, side: str):
        """Scores, labels, rows and columns (N, K), and places (N, K, 2) x and y in cells, of the highest peaks."""
        heat = tf.sigmoid(outputs[f"{side}_heat"])
        heat = edge_aggregation(heat, 2 if side in "tb" else 1, self.aggregation)  # mirror: axis 1
        cells = heat.shape[1] * heat.shape[2] * heat.shape[3]
        scores, labels, row, column = peaks(heat, 3, min(self.points, cells))
        rest = take_rows(map_rows(outputs[f"{side}_regr"]), row * heat.shape[2] + column)
        place = tf.cast(tf.stack((column, row), -1), heat.dtype) + rest
        # of too many peaks above 1, the ones that were highest are kept
        return {"score": tf.minimum(scores, 1.0), "label": labels, "y": row, "x": column, "place": place}

    def _combinations(self, found: dict, centre):
        """Scores (N, candidates), minus 1 per broken rule, and the indices of the K^4 combinations."""
        (height, width, classes), number = centre.shape[1:], found["t"]["score"].shape[1]
        score, label, y, x = (
            {
                side: tf.reshape(found[side][key], (-1, *(number if i == axis else 1 for axis in range(4))))
                for i, side in enumerate(SIDES)
            }
            for key in ("score", "label", "y", "x")
        )
        cell = (y["t"] + y["b"]) // 2 * width + (x["l"] + x["r"]) // 2  # (N, K, K, K, K)
        middle = tf.reshape(map_rows(centre), (-1, height * width * classes))
        middle = take_rows(middle, tf.reshape(cell * classes + label["t"], (-1, number**4)))
        middle = tf.reshape(middle, (-1, *[number] * 4))
        scores = (score["t"] + score["l"] + score["b"] + score["r"] + 2 * middle) / 6
        low = middle < self.threshold
        for side in SIDES:
            low = low | (score[side] < self.threshold)
        broken = (
            low,
            (label["t"] != label["l"]) | (label["t"] != label["b"]) | (label["t"] != label["r"]),
            (y["t"] > y["l"]) | (y["t"] > y["b"]) | (y["t"] > y["r"]),
            (x["l"] > x["t"]) | (x["l"] > x["b"]) | (x["l"] > x["r"]),
            (y["b"] < y["t"]) | (y["b"] < y["l"]) | (y["b"] < y["r"]),
            (x["r"] < x["t"]) | (x["r"] < x["l"]) | (x["r"] < x["b"]),
        )
        for rule in broken:
            scores = scores - tf.cast(rule, scores.dtype)
        return top_k(tf.reshape(scores, (-1, number**4)), min(self.candidates, number**4))

    def _without_ghosts(self, boxes, scores, labels):
        """Halve the scores of boxes that span several objects, one box after the other."""
        outer, inner = boxes[:, :, None], boxes[:, None]
        inside = tf.reduce_all(inner[..., :2] >= outer[..., :2], -1)
        inside = inside & tf.reduce_all(inner[..., 2:] <= outer[..., 2:], -1)
        inside = tf.cast(inside & (labels[:, :, None] == labels[:, None]), scores.dtype)  # (N, D, D)
        every = tf.range(self.detections)
        for i in range(self.detections):
            mine = scores[:, i : i + 1]
            ghost = tf.reduce_sum(inside[:, i] * scores, 1, keepdims=True) > self.ghost_factor * mine
            scores = tf.where((every == i) & ghost & (mine > self.ghost_score), scores / 2, scores)
        return scores


def extremenet_hourglass104(stacks: int = 2, **options) -> ExtremeNet:
    return ExtremeNet(stacks, **options)
