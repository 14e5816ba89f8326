"""torchvision's FCOS: distances in strides from the corners of the cells, and boxes with equal weights.

"FCOS: Fully Convolutional One-Stage Object Detection", 2019, arXiv:1904.01355.
Parameter names: torchvision ``detection/fcos.py`` (BSD-3). Class 0 is the background and never a target.
What to look at: ``fcos.py`` has the paper's variant and its later one; this one differs in points, ranges, divisors and
scores.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the heads' maps are transposed before they become rows of cells, there not.
"""

import math

import numpy as np
import torch
from torch import nn

from torch_impl.boxes.anchors import grid_anchors
from torch_impl.boxes.coders import clip_boxes
from torch_impl.boxes.iou import box_area
from torch_impl.boxes.points import boxes_of_distances, distances_to_sides
from torch_impl.boxes.results import results
from torch_impl.classification.resnet import Bottleneck, ResNet
from torch_impl.detection.fcos import centerness
from torch_impl.detection.retinanet import BackboneWithFPN
from torch_impl.layers.initialization import normal
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import map_rows, take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.box import giou_loss
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.losses.focal import sigmoid_focal_loss
from torch_impl.necks.fpn import FeaturePyramidNetwork

__all__ = [
    "TorchvisionFCOS",
    "TorchvisionFCOSCriterion",
    "TorchvisionFCOSHead",
    "TorchvisionFCOSPostProcess",
    "fcos_resnet50_fpn",
]

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32, 64, 128)
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)  # logit of every class before training: probability 0.01
RADIUS = 1.5  # radius of the cells around an object's centre that belong to it, in anchor sizes
LARGE = 1e8  # from which areas are subtracted, in single precision


def tower(channels: int, num_convs: int, norm_groups: int) -> nn.Sequential:
    """3x3 convolutions with group normalisation and ReLU, one after the other."""
    layers = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(norm_groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)


class FCOSClassificationHead(nn.Module):
    """Class logits of every cell.  Dict of (N, C, H, W) -> (N, sum of H * W, K)."""

    def __init__(self, channels: int, num_classes: int, num_convs: int, norm_groups: int):
        super().__init__()
        self.conv = tower(channels, num_convs, norm_groups)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, 1, 1)
        normal(self, 0.01)
        nn.init.constant_(self.cls_logits.bias, PRIOR_BIAS)

    def forward(self, maps):
        return torch.cat([map_rows(self.cls_logits(self.conv(x))) for x in maps.values()], 1)


class FCOSRegressionHead(nn.Module):
    """Distances and centredness of every cell.  Dict of (N, C, H, W) -> (N, sum of H * W, 4), (N, sum of H * W, 1)."""

    def __init__(self, channels: int, num_convs: int, norm_groups: int):
        super().__init__()
        self.conv = tower(channels, num_convs, norm_groups)
        self.bbox_reg = nn.Conv2d(channels, 4, 3, 1, 1)
        self.bbox_ctrness = nn.Conv2d(channels, 1, 3, 1, 1)
        normal(self, 0.01)

    def forward(self, maps):
        maps = [self.conv(x) for x in maps.values()]
        distances = torch.cat([map_rows(torch.relu(self.bbox_reg(x))) for x in maps], 1)
        return distances, torch.cat([map_rows(self.bbox_ctrness(x)) for x in maps], 1)


class TorchvisionFCOSHead(nn.Module):
    """Two towers, shared by all levels.

    Args:
        channels: channels of the levels and of the convolutions.
        num_classes: classes K.
        num_convs: convolutions of each tower.
        norm_groups: groups of their normalisation.

    Inputs: dict of levels (N, C, H, W).
    Returns: class logits (N, sum of H * W, K), distances (N, sum of H * W, 4), centredness (N, sum of H * W, 1).
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int = 4, norm_groups: int = 32):
        super().__init__()
        self.classification_head = FCOSClassificationHead(channels, num_classes, num_convs, norm_groups)
        self.regression_head = FCOSRegressionHead(channels, num_convs, norm_groups)

    def forward(self, maps):
        return self.classification_head(maps), *self.regression_head(maps)


class TorchvisionFCOS(nn.Module):
    """Residual network, pyramid P3 to P7, head.

    Args:
        layers, planes, norm, frozen_stages: of the residual network, see :class:`ResNet`. The published weights need
            ``norm="frozen"``.
        num_classes: classes K, including the background (0).
        out_channels: channels of the levels.
        num_convs, norm_groups: of the head, see :class:`TorchvisionFCOSHead`.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, P, K), ``"bbox_regression"`` (N, P, 4) left, top, right, bottom, in sizes of the
        anchors, ``"bbox_ctrness"`` (N, P, 1) logits; ``"anchors_p3"`` to ``"anchors_p7"`` (P_l, 4) xyxy in pixels, a
        square around the corner of each cell; ``"image_size"`` (2,) int64, H and W.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        norm: str = "batch",
        frozen_stages: int = -1,
        num_classes: int = 91,
        out_channels: int = 256,
        num_convs: int = 4,
        norm_groups: int = 32,
    ):
        super().__init__()
        body = ResNet(
            Bottleneck,
            layers,
            planes=planes,
            norm=norm,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.backbone = BackboneWithFPN(body, FeaturePyramidNetwork(body.channels, out_channels, "on_output"))
        self.head = TorchvisionFCOSHead(out_channels, num_classes, num_convs, norm_groups)

    def forward(self, images):
        maps = self.backbone(images)
        logits, distances, central = self.head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": central}
        height, width = map_size(images)
        for (level, x), stride in zip(maps.items(), STRIDES):
            rows, columns = map_size(x)
            half = stride / 2
            cell = np.array([[-half, -half, half, half]])
            # NOTE: not the nominal stride if the image is not a multiple of it
            anchors = grid_anchors(cell, (rows, columns), (height // rows, width // columns))
            outputs[f"anchors_{level}"] = torch.from_numpy(anchors).to(x)
        return {**outputs, "image_size": torch.tensor([height, width], device=images.device)}


def middles(anchors):
    """Centres (P, 2) and sizes (P,) of square anchors (P, 4)."""
    return (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]


class TorchvisionFCOSCriterion(nn.Module):
    """Focal loss of the classes, GIoU of the boxes, cross-entropy of the centredness, divided by the number of matched
    cells.

    A cell belongs to the smallest object that contains it, whose centre is near, and whose largest distance is between
    four and eight sizes of its anchor; the first level has no lower limit, the last no upper one.

    Args:
        alpha, gamma: of the focal loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding.
    Returns: dict of scalars: ``"classification"``, ``"bbox_regression"``, ``"bbox_ctrness"``, ``"total"``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, outputs, targets):
        logits, distances, central = (outputs[key] for key in ("cls_logits", "bbox_regression", "bbox_ctrness"))
        levels = [outputs[f"anchors_{level}"] for level in LEVELS]
        points, sizes = middles(torch.cat(levels))
        last = torch.full_like(levels[-1][:, 0], torch.finfo(points.dtype).max)
        least = torch.cat((torch.zeros_like(levels[0][:, 0]), 4 * sizes[len(levels[0]) :]))
        most = torch.cat((8 * sizes[: len(sizes) - len(last)], last))

        boxes = targets["boxes"].to(logits.dtype)
        sides = distances_to_sides(points, boxes[:, :, None])  # (N, M, P, 4)
        away = (points - ((boxes[..., :2] + boxes[..., 2:]) / 2)[:, :, None]).abs().amax(-1)
        largest = sides.amax(-1)
        mine = (away < RADIUS * sizes) & (sides.amin(-1) > 0) & (largest > least) & (largest < most)
        # NOTE: in single precision, where areas that differ by less than 8 are equal, and the first object wins
        rank = LARGE - box_area(boxes).float()
        rank = torch.where(mine & targets["valid"][..., None], rank[..., None], 0.0)
        index, positive = argmax(rank, 1), rank.amax(1) >= 1e-5  # (N, P)

        labels, kinds = take_rows(targets["labels"], index), torch.arange(logits.shape[-1], device=logits.device)
        wanted = ((labels[..., None] == kinds) & positive[..., None]).to(logits.dtype)
        count = positive.to(logits.dtype).sum().clamp(min=1.0)
        classification = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma).sum() / count

        # a cell without an object has its anchor for prediction and target: finite, and masked
        wanted = distances_to_sides(points, take_rows(boxes, index)) / sizes[:, None]
        wanted = torch.where(positive[..., None], wanted, 0.5)
        distances = torch.where(positive[..., None], distances, 0.5)
        found, goal = (boxes_of_distances(points, x * sizes[:, None]) for x in (distances, wanted))
        regression = torch.where(positive, giou_loss(found, goal), 0.0).sum() / count
        centre = binary_cross_entropy(central[..., 0], centerness(wanted))
        centre = torch.where(positive, centre, 0.0).sum() / count
        return {
            "classification": classification,
            "bbox_regression": regression,
            "bbox_ctrness": centre,
            "total": classification + regression + centre,
        }


class TorchvisionFCOSPostProcess(nn.Module):
    """The best boxes of every image, scored by the root of the class's probability times the centredness.

    Args:
        score_threshold: pairs of cell and class of at most this score are dropped.
        candidates: pairs kept per level.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.2,
        candidates: int = 1000,
        iou_threshold: float = 0.6,
        detections: int = 100,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections

    def forward(self, outputs):
        anchors = [outputs[f"anchors_{level}"] for level in LEVELS]
        classes = outputs["cls_logits"].shape[-1]
        scores = torch.sqrt(torch.sigmoid(outputs["cls_logits"]) * torch.sigmoid(outputs["bbox_ctrness"])).flatten(1)
        found, start = [], 0
        for level in scores.split([len(of_level) * classes for of_level in anchors], 1):
            best, pairs = top_k(level, min(self.candidates, level.shape[1]))
            found.append((best, pairs + start))
            start += level.shape[1]
        scores, pairs = (torch.cat(parts, 1) for parts in zip(*found))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels, valid = pairs - index * classes, scores > self.score_threshold
        points, sizes = middles(torch.cat(anchors))
        boxes = boxes_of_distances(points, outputs["bbox_regression"] * sizes[:, None])
        boxes = clip_boxes(take_rows(boxes, index), outputs["image_size"])
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def fcos_resnet50_fpn(layers=(3, 4, 6, 3), **options) -> TorchvisionFCOS:
    return TorchvisionFCOS(layers=layers, **options)
