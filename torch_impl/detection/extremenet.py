"""ExtremeNet: an object is its topmost, leftmost, bottommost and rightmost point, with a centre peak between them.

"Bottom-up Object Detection by Grouping Extreme and Center Points", 2019, arXiv:1901.08043.
Parameter names: xingyizhou/ExtremeNet ``models/py_utils/exkp.py`` (BSD-3).
What to look at: points are grouped by geometry alone, all K^4 combinations at once.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a map's rows are axis 2 here, axis 1 there.
"""

import torch
from torch import nn

from torch_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from torch_impl.detection._hourglass import (
    DIMS,
    MODULES,
    PRIOR_BIAS,
    HourglassTrunk,
    maps_of_stacks,
    predictions,
)
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.layers.soft_nms import batched_soft_nms
from torch_impl.layers.top_k import top_k
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss

__all__ = [
    "ExtremeNet",
    "ExtremeNetCriterion",
    "ExtremeNetPostProcess",
    "edge_aggregation",
    "extremenet_hourglass104",
]

SIDES = ("t", "l", "b", "r")
EPS = 1e-4  # keeps the divisors above 0


class ExtremeNet(HourglassTrunk):
    """Hourglasses, each with five heat maps and four offset maps.

    Args:
        stacks, dims, modules, stem, cnv_dim: of the trunk, see :class:`HourglassTrunk`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"t_heat"``, ``"l_heat"``, ``"b_heat"``, ``"r_heat"``, ``"ct_heat"`` (N, K, H', W') logits,
        ``"t_regr"``, ``"l_regr"``, ``"b_regr"``, ``"r_regr"`` (N, 2, H', W') the point's x and y offsets, in cells;
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
    ):
        super().__init__(stacks, dims, modules, stem, cnv_dim)
        for side in (*SIDES, "ct"):
            setattr(self, f"{side}_heats", predictions(stacks, cnv_dim, hidden, num_classes, PRIOR_BIAS))
        for side in SIDES:
            setattr(self, f"{side}_regrs", predictions(stacks, cnv_dim, hidden, 2))

    def forward(self, images):
        maps, found = self.stacked(images), {}
        for key in [f"{side}_heat" for side in (*SIDES, "ct")] + [f"{side}_regr" for side in SIDES]:
            found[key] = [head(x) for head, x in zip(getattr(self, f"{key}s"), maps)]
        size = torch.tensor(map_size(images), device=images.device)
        return {**maps_of_stacks(found), "image_size": size}


class ExtremeNetCriterion(nn.Module):
    """Focal loss of the heat maps, smooth L1 loss of the offsets at the objects' extreme points.

    Args:
        overlap: of the radius of a peak, as in the first implementations, see :func:`gaussian_radius`.
        regr_weight: factor of the second loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"extremes"`` (N, M, 4, 2) the
        topmost, leftmost, bottommost and rightmost point in pixels, ``"labels"`` (N, M) int64, ``"valid"`` (N, M) bool,
        False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"focal"``, ``"regr"``, ``"total"``, their sum; means over the hourglasses.
    """

    def __init__(self, overlap: float = 0.7, regr_weight: float = 1.0):
        super().__init__()
        self.overlap, self.regr_weight = overlap, regr_weight

    def forward(self, outputs, targets):
        heat = outputs["t_heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        image = outputs["image_size"].flip(0).to(dtype)
        ratio = torch.tensor([width, height], dtype=dtype, device=heat.device) / image
        boxes = torch.minimum(torch.clamp(targets["boxes"].to(dtype), min=0.0), (image - 1).repeat(2))
        points = torch.minimum(torch.clamp(targets["extremes"].to(dtype), min=0.0), image - 1)  # (N, M, 4, 2)
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        size = torch.where(valid[..., None], torch.ceil((boxes[..., 2:] - boxes[..., :2]) * ratio), 1.0)
        radius = torch.floor(
            torch.clamp(gaussian_radius(size[..., 1], size[..., 0], self.overlap, corrected=False), min=0.0)
        )
        number = valid.to(dtype).sum()

        places = {side: points[:, :, i] * ratio for i, side in enumerate(SIDES)}
        middle = (places["l"][..., :1] + places["r"][..., :1]) / 2, (places["t"][..., 1:] + places["b"][..., 1:]) / 2
        places["ct"] = torch.cat(middle, -1)
        cells = {side: torch.floor(place) for side, place in places.items()}
        wanted = {
            side: heat_maps(cell, radius, targets["labels"], valid, heat.shape[1], (height, width))
            for side, cell in cells.items()
        }
        focal = regr = torch.zeros_like(number)
        stacks = [f"_{i}" for i in range(len(outputs) // 9 - 1)] + [""]
        for stack in stacks:
            for side, cell in cells.items():
                focal = focal + heatmap_focal_loss(clamped_sigmoid(outputs[f"{side}_heat{stack}"]), wanted[side])
                if side != "ct":
                    index = (cell[..., 1] * width + cell[..., 0]).long()
                    found = take_rows(map_rows(outputs[f"{side}_regr{stack}"]), index)
                    losses = torch.where(valid, smooth_l1_loss(found, places[side] - cell), 0.0)
                    regr = regr + losses.sum() / (number + EPS)
        focal, regr = focal / len(stacks), self.regr_weight * regr / len(stacks)
        return {"focal": focal, "regr": regr, "total": focal + regr}


def later(x, step: int, axis: int):
    """Shift every entry by ``step`` along ``axis``, filling with zeros."""
    kept, dropped = x.split((x.shape[axis] - step, step), axis)
    return torch.cat((torch.zeros_like(dropped), kept), axis)


def edge_aggregation(heat, axis: int, weight: float = 0.1):
    """Add to every position its neighbours along an edge, as long as their values decrease away from it.

    Args:
        heat: (N, K, H, W) in [0, 1].
        axis: 3 along rows, 2 along columns.
        weight: share of the neighbours' sum that is added.

    Returns:
        (N, K, H, W), which may be above 1.
    """
    total, size = heat, heat.shape[axis]
    for backwards in (False, True):
        x = heat.flip(axis) if backwards else heat
        rising, running, step = x >= later(x, 1, axis), x, 1
        while step < size:  # sums over 2, 4, 8, ... increasing positions
            running = running + torch.where(rising, later(running, step, axis), 0.0)
            rising = rising & later(rising, step, axis)
            step *= 2
        gained = running - x
        total = total + weight * (gained.flip(axis) if backwards else gained)
    return total


class ExtremeNetPostProcess(nn.Module):
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
    ):
        super().__init__()
        self.points, self.candidates, self.detections = points, candidates, detections
        self.aggregation, self.threshold, self.sigma, self.min_score = aggregation, threshold, sigma, min_score
        self.ghost_score, self.ghost_factor = ghost_score, ghost_factor

    def forward(self, outputs):
        size = map_size(outputs["t_heat"])
        found = {side: self._peaks(outputs, side) for side in SIDES}
        scores, index = self._combinations(found, torch.sigmoid(outputs["ct_heat"]))
        number = found["t"]["score"].shape[1]
        parts = [index // number**power % number for power in (3, 2, 1, 0)]  # (N, candidates) which peak of a side
        places = [take_rows(found[side]["place"], part) for side, part in zip(SIDES, parts)]
        image = outputs["image_size"].flip(0).to(scores.dtype)
        ratio = image / torch.tensor(size[::-1], dtype=scores.dtype, device=scores.device)
        extremes = torch.cat(places, -1) * ratio.repeat(4)  # (N, candidates, 8)
        extremes = torch.minimum(torch.clamp(extremes, min=0.0), image.repeat(4))
        boxes, labels = extremes[..., (2, 1, 6, 5)], take_rows(found["t"]["label"], parts[0])

        options = {"sigma": self.sigma, "min_score": self.min_score, "offset": 1.0}
        index, scores, valid = batched_soft_nms(boxes, scores, labels, scores > 0, self.detections, **options)
        boxes, extremes, labels = (take_rows(x, index) for x in (boxes, extremes, labels))
        scores, index = top_k(self._without_ghosts(boxes, scores, labels), self.detections)
        valid = take_rows(valid, index)
        extremes = take_rows(extremes, index).unflatten(-1, (4, 2))
        return {
            "boxes": torch.where(valid[..., None], take_rows(boxes, index), 0.0),
            "extremes": torch.where(valid[..., None, None], extremes, 0.0),
            "scores": scores,
            "labels": torch.where(valid, take_rows(labels, index), 0),
            "valid": valid,
        }

    def _peaks(self, outputs, side: str):
        """Scores, labels, rows and columns (N, K), and places (N, K, 2) x and y in cells, of the highest peaks."""
        heat = torch.sigmoid(outputs[f"{side}_heat"])
        heat = edge_aggregation(heat, 3 if side in "tb" else 2, self.aggregation)  # mirror: axis 2
        cells = heat.shape[1] * heat.shape[2] * heat.shape[3]
        scores, labels, row, column = peaks(heat, 3, min(self.points, cells))
        rest = take_rows(map_rows(outputs[f"{side}_regr"]), row * heat.shape[3] + column)
        place = torch.stack((column, row), -1).to(heat.dtype) + rest
        # of too many peaks above 1, the ones that were highest are kept
        return {"score": torch.clamp(scores, max=1.0), "label": labels, "y": row, "x": column, "place": place}

    def _combinations(self, found: dict, centre):
        """Scores (N, candidates), minus 1 per broken rule, and the indices of the K^4 combinations."""
        (classes, _, width), number = centre.shape[1:], found["t"]["score"].shape[1]
        score, label, y, x = (
            {
                side: found[side][key].reshape(-1, *(number if i == axis else 1 for axis in range(4)))
                for i, side in enumerate(SIDES)
            }
            for key in ("score", "label", "y", "x")
        )
        cell = (y["t"] + y["b"]) // 2 * width + (x["l"] + x["r"]) // 2  # (N, K, K, K, K)
        middle = map_rows(centre).flatten(1)
        middle = take_rows(middle, (cell * classes + label["t"]).flatten(1))
        middle = middle.reshape(-1, *[number] * 4)
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
            scores = scores - rule.to(scores.dtype)
        return top_k(scores.flatten(1), min(self.candidates, number**4))

    def _without_ghosts(self, boxes, scores, labels):
        """Halve the scores of boxes that span several objects, one box after the other."""
        outer, inner = boxes[:, :, None], boxes[:, None]
        inside = (inner[..., :2] >= outer[..., :2]).all(-1)
        inside = inside & (inner[..., 2:] <= outer[..., 2:]).all(-1)
        inside = (inside & (labels[:, :, None] == labels[:, None])).to(scores.dtype)  # (N, D, D)
        every = torch.arange(self.detections, device=scores.device)
        for i in range(self.detections):
            mine = scores[:, i : i + 1]
            ghost = (inside[:, i] * scores).sum(1, keepdim=True) > self.ghost_factor * mine
            scores = torch.where((every == i) & ghost & (mine > self.ghost_score), scores / 2, scores)
        return scores


def extremenet_hourglass104(stacks: int = 2, **options) -> ExtremeNet:
    return ExtremeNet(stacks, **options)
