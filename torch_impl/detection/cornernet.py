"""CornerNet: an object is two corners with the same tag, each a peak of a heat map.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244.
Parameter names: princeton-vl/CornerNet ``models/CornerNet.py``, ``models/py_utils/kp.py`` (BSD-3).
What to look at: only the differences of tags matter: the losses pull them to 0 within an object and push them above 1
between objects.

Mirror notes:
- NCHW here, NHWC in TensorFlow: a map is transposed here before it becomes rows of cells.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.heatmaps import gaussian_radius, heat_maps, peaks
from torch_impl.detection._hourglass import (
    DIMS,
    MODULES,
    PRIOR_BIAS,
    Convolution,
    HourglassTrunk,
    maps_of_stacks,
    predictions,
)
from torch_impl.layers.corner_pool import corner_pool
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.layers.soft_nms import batched_soft_nms
from torch_impl.layers.top_k import top_k
from torch_impl.losses.box import smooth_l1_loss
from torch_impl.losses.heatmap import clamped_sigmoid, heatmap_focal_loss

__all__ = [
    "CornerNet",
    "CornerNetCriterion",
    "CornerNetPostProcess",
    "CornerPool",
    "cornernet_hourglass104",
]

CORNERS = ("tl", "br")
EPS = 1e-4  # keeps the divisors above 0


class CornerPool(nn.Module):
    """The sum of two corner poolings of separate maps, and a shortcut.

    Args:
        dim: width of the map.
        pooled: width of the pooled maps.
        directions: of the poolings, see :func:`corner_pool`.

    x: (N, C, H, W), the same shape out.
    """

    def __init__(self, dim: int, pooled: int, directions: tuple[str, str]):
        super().__init__()
        self.directions = directions
        self.p1_conv1, self.p2_conv1 = Convolution(dim, pooled, 3), Convolution(dim, pooled, 3)
        self.p_conv1, self.p_bn1 = nn.Conv2d(pooled, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)
        self.conv1, self.bn1 = nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim)
        self.conv2 = Convolution(dim, dim, 3)

    def forward(self, x):
        first = corner_pool(self.p1_conv1(x), self.directions[0])
        second = corner_pool(self.p2_conv1(x), self.directions[1])
        y = self.p_bn1(self.p_conv1(first + second))
        return self.conv2(F.relu(y + self.bn1(self.conv1(x))))


class CornerNet(HourglassTrunk):
    """Hourglasses, and for both corners a corner pooling and three maps of each.

    Args:
        stacks, dims, modules, stem, cnv_dim: of the trunk, see :class:`HourglassTrunk`.
        num_classes: classes K.
        hidden: width of the predictions' first convolutions.
        pooled: see :class:`CornerPool`.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict, for the corners "tl" and "br": ``"tl_heat"`` (N, K, H', W') logits, ``"tl_tag"`` (N, 1, H', W'),
        ``"tl_regr"`` (N, 2, H', W') the corner's x and y offsets, in cells, ...; H' and W' are quarters, rounded up;
        of the last hourglass, and with ``"_0"`` after the key of the first, and so on. ``"image_size"`` (2,) int64, H
        and W.
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
        pooled: int = 128,
    ):
        super().__init__(stacks, dims, modules, stem, cnv_dim)
        for corner, directions in zip(CORNERS, (("top", "left"), ("bottom", "right"))):
            pools = nn.ModuleList(CornerPool(cnv_dim, pooled, directions) for _ in range(stacks))
            setattr(self, f"{corner}_cnvs", pools)
        for key, width, bias in (("heats", num_classes, PRIOR_BIAS), ("tags", 1, None), ("regrs", 2, None)):
            for corner in CORNERS:
                setattr(self, f"{corner}_{key}", predictions(stacks, cnv_dim, hidden, width, bias))

    def forward(self, images):
        maps, found = self.stacked(images), {}
        for corner in CORNERS:
            pooled = [pool(x) for pool, x in zip(getattr(self, f"{corner}_cnvs"), maps)]
            for key in ("heat", "tag", "regr"):
                heads = getattr(self, f"{corner}_{key}s")
                found[f"{corner}_{key}"] = [head(x) for head, x in zip(heads, pooled)]
        size = torch.tensor(map_size(images), device=images.device)
        return {**maps_of_stacks(found), "image_size": size}


class CornerNetCriterion(nn.Module):
    """Focal loss of the heat maps, pull and push of the tags, smooth L1 loss of the offsets at the objects' corners.

    Args:
        overlap: IoU with itself that a box keeps when its corners move within the peak.
        pull_weight, push_weight, regr_weight: factors of the losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"focal"``, ``"pull"``, ``"push"``, ``"regr"``, ``"total"``, their sum; means over the
        hourglasses.
    """

    def __init__(
        self,
        overlap: float = 0.3,
        pull_weight: float = 0.1,
        push_weight: float = 0.1,
        regr_weight: float = 1.0,
    ):
        super().__init__()
        self.overlap, self.pull_weight, self.push_weight = overlap, pull_weight, push_weight
        self.regr_weight = regr_weight

    def forward(self, outputs, targets):
        heat = outputs["tl_heat"]
        dtype, (height, width) = heat.dtype, map_size(heat)
        image = outputs["image_size"].flip(0).to(dtype)
        ratio, limit = torch.tensor([width, height], dtype=dtype, device=heat.device) / image, (image - 1).repeat(2)
        boxes = torch.minimum(torch.clamp(targets["boxes"].to(dtype), min=0.0), limit)
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        size = torch.where(valid[..., None], torch.ceil((boxes[..., 2:] - boxes[..., :2]) * ratio), 1.0)
        radius = torch.floor(torch.clamp(gaussian_radius(size[..., 1], size[..., 0], self.overlap), min=0.0))
        number = valid.to(dtype).sum(1)  # (N,)

        places = {"tl": boxes[..., :2] * ratio, "br": boxes[..., 2:] * ratio}
        cells = {corner: torch.floor(place) for corner, place in places.items()}
        index = {corner: (cell[..., 1] * width + cell[..., 0]).long() for corner, cell in cells.items()}
        wanted = {
            corner: heat_maps(cell, radius, targets["labels"], valid, heat.shape[1], (height, width))
            for corner, cell in cells.items()
        }
        focal = pull = push = regr = torch.zeros_like(number[0])
        stacks = [f"_{i}" for i in range(len(outputs) // 6 - 1)] + [""]
        for stack in stacks:
            tags = {}
            for corner in CORNERS:
                logits, rest = outputs[f"{corner}_heat{stack}"], places[corner] - cells[corner]
                focal = focal + heatmap_focal_loss(clamped_sigmoid(logits), wanted[corner])
                tags[corner] = take_rows(map_rows(outputs[f"{corner}_tag{stack}"]), index[corner])[..., 0]  # (N, M)
                found = take_rows(map_rows(outputs[f"{corner}_regr{stack}"]), index[corner])
                losses = torch.where(valid, smooth_l1_loss(found, rest), 0.0)
                regr = regr + losses.sum() / (number.sum() + EPS)
            together, apart = self._tag_losses(tags["tl"], tags["br"], valid, number)
            pull, push = pull + together, push + apart
        found = {
            "focal": focal / len(stacks),
            "pull": self.pull_weight * pull / len(stacks),
            "push": self.push_weight * push / len(stacks),
            "regr": self.regr_weight * regr / len(stacks),
        }
        return {**found, "total": sum(found.values())}

    def _tag_losses(self, first, second, valid, number):
        """Distances of an object's tags from their mean, and closeness of the objects' means; sums over the batch."""
        mean = (first + second) / 2
        losses = ((first - mean).square() + (second - mean).square()) / (number[:, None] + EPS)
        together = torch.where(valid, losses, 0.0).sum()
        number = number[:, None, None]
        near = F.relu(1 - (mean[:, None] - mean[:, :, None]).abs())  # (N, M, M)
        near = (near - 1 / (number + EPS)) / (number * (number - 1) + EPS)  # minus an object's closeness to itself
        return together, torch.where(valid[:, None] & valid[:, :, None], near, 0.0).sum()


class CornerNetPostProcess(nn.Module):
    """The best pairs of corners of every image, with soft suppression by class.

    Args:
        corners: corners of each kind; all their pairs are considered.
        candidates: pairs kept.
        detections: results per image, D.
        tag_distance: largest difference of a pair's tags.
        sigma, min_score: of the suppression, see :func:`batched_soft_nms`.

    Inputs: ``outputs`` of the model.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        corners: int = 100,
        candidates: int = 1000,
        detections: int = 100,
        tag_distance: float = 0.5,
        sigma: float = 0.5,
        min_score: float = 0.001,
    ):
        super().__init__()
        self.corners, self.candidates, self.detections = corners, candidates, detections
        self.tag_distance, self.sigma, self.min_score = tag_distance, sigma, min_score

    def forward(self, outputs):
        (tl_score, tl_label, tl_tag, tl), (br_score, br_label, br_tag, br) = (
            self._corners(outputs, corner) for corner in CORNERS
        )
        pair = (tl_label[:, :, None] == br_label[:, None]) & (br[:, None] >= tl[:, :, None]).all(-1)
        pair = pair & ((tl_tag[:, :, None] - br_tag[:, None]).abs() <= self.tag_distance)  # (N, K, K)
        scores, corners = torch.where(pair, (tl_score[:, :, None] + br_score[:, None]) / 2, -1.0), tl.shape[1]
        scores = scores.flatten(1)
        scores, index = top_k(scores, min(self.candidates, corners * corners))
        first = torch.div(index, corners, rounding_mode="floor")
        boxes = torch.cat((take_rows(tl, first), take_rows(br, index - first * corners)), -1)
        image = outputs["image_size"].flip(0).to(boxes.dtype)
        ratio = image / torch.tensor(map_size(outputs["tl_heat"])[::-1], dtype=boxes.dtype, device=boxes.device)
        boxes, labels = boxes * ratio.repeat(2), take_rows(tl_label, first)
        options = {"sigma": self.sigma, "min_score": self.min_score, "offset": 1.0}
        index, scores, valid = batched_soft_nms(boxes, scores, labels, scores >= 0, self.detections, **options)
        return {
            "boxes": torch.where(valid[..., None], take_rows(boxes, index), 0.0),
            "scores": scores,
            "labels": torch.where(valid, take_rows(labels, index), 0),
            "valid": valid,
        }

    def _corners(self, outputs, corner: str):
        """Scores, labels and tags (N, K), and places (N, K, 2) x and y in cells, of the highest peaks."""
        heat = torch.sigmoid(outputs[f"{corner}_heat"])
        cells = heat.shape[1] * heat.shape[2] * heat.shape[3]
        scores, labels, row, column = peaks(heat, 3, min(self.corners, cells))
        index = row * heat.shape[3] + column
        place = torch.stack((column, row), -1).to(heat.dtype) + take_rows(map_rows(outputs[f"{corner}_regr"]), index)
        return scores, labels, take_rows(map_rows(outputs[f"{corner}_tag"]), index)[..., 0], place


def cornernet_hourglass104(stacks: int = 2, **options) -> CornerNet:
    return CornerNet(stacks, **options)
