"""PointRend: masks that are coarse at first, and recomputed at the points where they are least certain.

"PointRend: Image Segmentation as Rendering", 2019, arXiv:1912.08193.
Parameter names: mmdet ``roi_heads/point_rend_roi_head.py``, ``mask_heads/coarse_mask_head.py``,
``mask_heads/mask_point_head.py`` (Apache-2.0). A point's features are the finest level and the coarse mask there. Masks
are upsampled by two, and after each step some of their cells are replaced.

Mirror notes:
- NCHW here, NHWC in TensorFlow; points follow the channels here, precede them there.
- Keras infers the widths of the maps.
"""

import torch
from torch import nn

from torch_impl.detection._masks import SHARE, MaskCriterion, MaskPostProcess
from torch_impl.detection._two_stage import of_class
from torch_impl.detection.faster_rcnn import StandardRoIHead, TwoStageDetector, TwoStagePostProcess, pyramid_detector
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.precision import single
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import argmax, top_k
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.rois.points import box_points, cell_points, halton, point_sample, replace_points

__all__ = [
    "CoarseMaskHead",
    "MaskPointHead",
    "MaskPostProcess",
    "PointRendCriterion",
    "PointRendRoIHead",
    "SimpleRoIExtractor",
    "point_rend_r50_caffe_fpn",
]

FINE, STRIDE = "p2", 4  # the level that points sample
IMPORTANT = 0.75  # of the points in training are the least certain ones


class SimpleRoIExtractor(nn.Module):
    """The value of the finest level in the middle of every bin.

    Args:
        output_size: bins of a box in each direction, B.

    Inputs: dict of maps (N, C, H, W); boxes (N, R, 4) xyxy in pixels.
    Returns: (N * R, C, B, B).
    """

    def __init__(self, output_size: int):
        super().__init__()
        self.output_size = output_size

    def forward(self, maps, boxes):
        size = self.output_size
        index = torch.arange(size**2, device=boxes.device).expand(*boxes.shape[:2], -1)
        found = fine_features(maps, boxes, cell_points(index, (size, size), boxes.dtype))
        return found.reshape(found.shape[0], -1, size, size)


def fine_features(maps, boxes, points):
    """The finest level's features at points of boxes.

    Args:
        maps: dict of levels (N, C, H, W).
        boxes: (N, R, 4) xyxy in pixels.
        points: (N, R, P, 2) shares of the boxes.

    Returns:
        (N * R, C, P).
    """
    x = maps[FINE]
    height, width = map_size(x)
    places = box_points(boxes.detach(), points) / (STRIDE * torch.tensor([width, height], device=boxes.device))
    found = point_sample(x, places.flatten(1, 2))  # (N, C, R * P)
    count, rows = points.shape[1], points.shape[2]
    return found.reshape(-1, x.shape[1], count, rows).transpose(1, 2).reshape(-1, x.shape[1], rows)


class CoarseMaskHead(nn.Module):
    """A convolution that halves the size, two linear layers, logits of every cell and class.

    Args:
        in_channels, channels: of the features and of the convolution.
        num_classes: classes K.
        units: width of the linear layers.
        size: height and width B of the features.

    x: (R, in_channels, B, B) -> (R, K, B / 2, B / 2).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, units: int = 1024, size: int = 14):
        super().__init__()
        self.num_classes, self.size = num_classes, size // 2
        self.downsample_conv = ConvModule(in_channels, channels, 2, 2)
        widths = [channels * self.size**2, units]
        self.fcs = nn.ModuleList(nn.Linear(width, units) for width in widths)  # mirror: infers the widths
        self.fc_logits = nn.Linear(units, num_classes * self.size**2)
        for layer in self.fcs:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.fc_logits.weight, 0.001)
        nn.init.zeros_(self.fc_logits.bias)

    def forward(self, x):
        x = self.downsample_conv(x).flatten(1)
        for layer in self.fcs:
            x = torch.relu(layer(x))
        return self.fc_logits(x).reshape(-1, self.num_classes, self.size, self.size)


class MaskPointHead(nn.Module):
    """Pointwise linear layers, each of which sees the coarse logits again.

    Args:
        in_channels: of the fine features.
        num_classes: classes K.
        channels, num_fcs: width and number of the layers.

    Inputs: fine features (R, C, P), coarse logits (R, K, P).
    Returns: logits (R, K, P).
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256, num_fcs: int = 3):
        super().__init__()
        widths = [in_channels, *[channels] * num_fcs]
        self.fcs = nn.ModuleList(
            ConvModule(width + num_classes, channels, 1, conv=nn.Conv1d) for width in widths[:num_fcs]
        )
        self.fc_logits = nn.Conv1d(widths[-1] + num_classes, num_classes, 1)
        nn.init.normal_(self.fc_logits.weight, std=0.001)
        nn.init.zeros_(self.fc_logits.bias)

    def forward(self, fine, coarse):
        x = fine
        for layer in self.fcs:
            x = layer(torch.cat([x, coarse], 1))
        return self.fc_logits(torch.cat([x, coarse], 1))


class PointRendRoIHead(StandardRoIHead):
    """The second stage with refined masks.

    Args:
        in_channels, num_classes, units, samples: see :class:`StandardRoIHead`.
        mask_channels: width of the convolution and of the points' layers.
        points, oversampling: points per box that the losses are computed at, and the factor of the candidates.
        subdivisions, subdivision_points: how often masks are doubled, and how many cells are replaced each time, at
            most.
        pairs, detections: of the best boxes, see :class:`TwoStagePostProcess`.

    Inputs: as for :class:`RoIHead`; ``targets`` may hold ``"point_candidates"`` (N, P, oversampling * points, 2) and
        ``"point_choices"`` (N, P, points - 3 / 4 points, 2), shares of the boxes, instead of fixed ones.
    Returns: as for :class:`RoIHead`; with targets ``"mask_logits"`` (N, P, 7, 7) and ``"point_logits"`` (N, P, points)
        of the objects' classes for the first P proposals, all positive ones among them, and ``"points"``
        (N, P, points, 2) in pixels; for given proposals ``"mask_logits"`` (N, P, K, 7, 7), which are coarse, and
        ``"refined_logits"`` (N, P, S, S) of the most probable classes, with S = 7 * 2 ** subdivisions; otherwise the
        best boxes, ``"boxes"``, ``"scores"``, ``"labels"``, ``"valid"``, ``"mask_logits"`` (N, D, S, S) of their
        classes.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_channels: int = 256,
        points: int = 196,
        oversampling: int = 3,
        subdivisions: int = 5,
        subdivision_points: int = 784,
        pairs: int = 4096,
        detections: int = 100,
    ):
        super().__init__(in_channels, num_classes, units, samples=samples, low_quality="forced")
        self.points, self.important, self.oversampling = points, int(IMPORTANT * points), oversampling
        self.subdivisions, self.subdivision_points = subdivisions, subdivision_points
        self.postprocess = TwoStagePostProcess("mmdet", candidates=pairs, detections=detections)
        self.mask_roi_extractor = SimpleRoIExtractor(14)
        self.mask_head = CoarseMaskHead(in_channels, mask_channels, num_classes, units)
        self.point_head = MaskPointHead(in_channels, num_classes, mask_channels)

    def segment(self, maps, boxes):
        """Coarse logits (N, R, K, 7, 7) of boxes (N, R, 4)."""
        logits = self.mask_head(self.mask_roi_extractor(maps, boxes))
        return logits.reshape(-1, boxes.shape[1], *logits.shape[1:])

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        found = super().forward(maps, proposals, image_size, targets, given)
        if targets is not None:
            return {**found, **self.learn(maps, found, targets)}
        if given:
            coarse = single(self.segment(maps, proposals))
            labels = argmax(found["class_logits"][..., :-1])
            return {**found, "mask_logits": coarse, "refined_logits": self.refine(maps, proposals, coarse, labels)}
        found |= self.postprocess({**found, "image_size": image_size})
        logits = single(self.segment(maps, found["boxes"]))
        return {**found, "mask_logits": self.refine(maps, found["boxes"], logits, found["labels"])}

    def point_logits(self, maps, boxes, coarse, labels, points):
        """Logits (N, R, P) of one class at points (N, R, P, 2) of boxes, given the coarse ones (N, R, K, 7, 7)."""
        fine, rows = fine_features(maps, boxes, points), points.flatten(0, 1)
        logits = single(self.point_head(fine, point_sample(coarse.flatten(0, 1), rows)))
        return of_class(logits.reshape(*points.shape[:2], *logits.shape[1:]), labels)

    def learn(self, maps, found, targets):
        """What the losses of masks are computed from."""
        boxes = found["proposals"][:, : int(self.samples * SHARE)]
        labels = take_rows(targets["labels"], found["matched"][:, : boxes.shape[1]])
        coarse = single(self.segment(maps, boxes))
        logits = of_class(coarse, labels)  # (N, P, 7, 7)
        points = self.choose(logits.detach(), targets)
        return {
            "mask_logits": logits,
            "point_logits": self.point_logits(maps, boxes, coarse, labels, points),
            "points": box_points(boxes, points),
        }

    def choose(self, logits, targets):
        """The least certain of many points, and some others.  Logits (N, P, 7, 7) -> (N, P, points, 2)."""
        shape = logits.shape[:2]
        count, others = self.oversampling * self.points, self.points - self.important
        both = torch.from_numpy(halton(count + others)).to(logits)
        candidates, choices = (part.expand(*shape, -1, -1) for part in (both[:count], both[count:]))
        candidates = targets.get("point_candidates", candidates)
        choices = targets.get("point_choices", choices)
        rows = candidates.flatten(0, 1)
        certainty = point_sample(logits.flatten(0, 1)[:, None], rows)[:, 0].abs()
        index = top_k(-certainty, self.important)[1]
        return torch.cat([take_rows(rows, index).reshape(*shape, -1, 2), choices], 2)

    def refine(self, maps, boxes, coarse, labels):
        """Logits (N, R, S, S) of one class, from coarse ones (N, R, K, 7, 7) of all."""
        shape = boxes.shape[:2]
        x = of_class(coarse, labels).flatten(0, 1)  # (N * R, 7, 7)
        for step in range(self.subdivisions):
            size = 2 * x.shape[1], 2 * x.shape[2]
            x = resize_bilinear(x[:, None], size)[:, 0]
            cells = size[0] * size[1]
            if self.subdivision_points >= 4 * cells and step < self.subdivisions - 1:
                continue
            index = top_k(-x.flatten(1).abs(), min(self.subdivision_points, cells))[1]
            points = cell_points(index, size, x.dtype).reshape(*shape, -1, 2)
            logits = self.point_logits(maps, boxes, coarse, labels, points)
            x = replace_points(x, index, logits.flatten(0, 1))
        return x.reshape(*shape, *x.shape[1:])


class PointRendCriterion(MaskCriterion):
    """The losses of boxes, classes and coarse masks, and the cross-entropy of the points of positive proposals.

    Args:
        samples: see :class:`TwoStageCriterion`.

    Inputs: as for :class:`MaskCriterion`. A point's target is its object's mask there, interpolated bilinearly.
    Returns: as for :class:`MaskCriterion`, and ``"loss_point"``.
    """

    def __init__(self, samples: int = 256):
        super().__init__("mmdet", samples=samples)

    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        logits, points, masks = outputs["point_logits"], outputs["points"], targets["masks"]
        matched = outputs["matched"][:, : logits.shape[1]]
        height, width = masks.shape[2:]
        places = points.detach().flatten(1, 2) / torch.tensor([width, height], device=masks.device)
        wanted = point_sample(masks.to(logits.dtype), places)  # (N, M, P * points)
        wanted = wanted.reshape(*wanted.shape[:2], *logits.shape[1:]).transpose(1, 2)
        positive = matched >= 0
        entropy = binary_cross_entropy(logits, of_class(wanted, matched)).mean(-1)
        count = torch.clamp(positive.to(logits.dtype).sum(), min=1.0)
        loss = torch.where(positive, entropy, 0.0).sum() / count
        return {**losses, "loss_point": loss, "total": losses["total"] + loss}


def point_rend_r50_caffe_fpn(
    layers=(3, 4, 6, 3),
    stride_in_1x1: bool = True,
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    points: int = 196,
    subdivisions: int = 5,
    subdivision_points: int = 784,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (1000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    head = PointRendRoIHead(
        out_channels,
        num_classes,
        units,
        samples,
        mask_channels,
        points,
        subdivisions=subdivisions,
        subdivision_points=subdivision_points,
        pairs=pairs,
        detections=detections,
    )
    options["stride_in_1x1"] = stride_in_1x1
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)
