"""Hybrid task cascade: three stages of boxes and masks, where each mask head receives the features of the previous
ones.

"Hybrid Task Cascade for Instance Segmentation", 2019, arXiv:1901.07518.
Parameter names: mmdet ``roi_heads/htc_roi_head.py``, ``mask_heads/htc_mask_head.py``,
``mask_heads/fused_semantic_head.py`` (Apache-2.0). A segmentation of the whole image, if there is one, supports boxes
and masks. In training the masks of a stage are learned on boxes refined by its own box head and assigned again.

The masks of the three stages are averaged, as in the publication; mmdet 3 uses those of the last one.

Mirror notes:
- NCHW here, NHWC in TensorFlow: there the classes of mask logits are moved to the front afterwards, here they come
  first already.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.detection._masks import SHARE, mask_loss
from torch_impl.detection._two_stage import of_class
from torch_impl.detection.cascade_rcnn import (
    OVERLAPS,
    STDS,
    WEIGHTS,
    CascadeCriterion,
    CascadeMaskPostProcess,
    CascadePostProcess,
    CascadeRoIHead,
)
from torch_impl.detection.faster_rcnn import TwoStageDetector, pyramid_detector
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.precision import single
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.rows import take_rows
from torch_impl.rois.extractors import RoIExtractor
from torch_impl.rois.mask_heads import FCNMaskHead
from torch_impl.rois.sampling import sample_rois

__all__ = [
    "CascadeMaskPostProcess",
    "FusedSemanticHead",
    "HTCCriterion",
    "HTCMaskHead",
    "HTCRoIHead",
    "htc_r50_fpn",
    "htc_r101_fpn",
    "htc_without_semantic_r50_fpn",
    "htc_x101_32x4d_fpn",
    "htc_x101_64x4d_fpn",
]

FUSED = "p3"  # the level at whose size the image is segmented
IGNORED_LABEL = 255
SEGMENTATION_WEIGHT = 0.2


class FusedSemanticHead(nn.Module):
    """Classes of the whole image at stride 8, from all levels.

    Args:
        in_channels, channels: of the levels, and of the convolutions.
        num_classes: classes K.
        num_levels: levels.
        num_convs: 3x3 convolutions after the sum.

    Inputs: dict of levels (N, C, H_i, W_i).
    Returns: logits (N, K, H, W), embedding (N, C, H, W).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, num_levels: int = 5, num_convs: int = 4):
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(in_channels, in_channels, 1) for _ in range(num_levels))
        widths = [in_channels, *[channels] * num_convs][:num_convs]
        self.convs = nn.ModuleList(ConvModule(c, channels, 3, 1, 1) for c in widths)
        self.conv_embedding = ConvModule(channels, in_channels, 1)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        kaiming_normal(self.conv_logits)

    def forward(self, maps):
        size = map_size(maps[FUSED])
        resized = [x if name == FUSED else resize_bilinear(x, size, True) for name, x in maps.items()]
        x = sum(conv(level) for conv, level in zip(self.lateral_convs, resized))
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(x), self.conv_embedding(x)


class HTCMaskHead(FCNMaskHead):
    """A mask head that receives the features of another one.

    Args:
        in_channels, channels, num_classes: see :class:`FCNMaskHead`.
        first: whether there is no head before.

    Inputs: features (R, C, B, B); the previous head's features, of the same shape, or None.
    Returns: logits (R, K, 2 B, 2 B), own features (R, channels, B, B).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, first: bool = False):
        super().__init__(in_channels, channels, num_classes)
        self.conv_res = None if first else ConvModule(channels, in_channels, 1)

    def forward(self, x, before=None):
        if before is not None:
            x = x + self.conv_res(before)
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(self.relu(self.upsample(x))), x


class HTCRoIHead(CascadeRoIHead):
    """Three heads of boxes and three of masks, one after the other.

    Args:
        in_channels, num_classes, units, samples: see :class:`CascadeRoIHead`.
        mask_channels: width of the masks' convolutions.
        semantic_channels, semantic_classes: width and classes of the segmentation; without classes there is none.
        score_threshold, pairs, iou_threshold, detections: of the best boxes, see :class:`TwoStagePostProcess`.

    Inputs: as for :class:`RoIHead`.
    Returns: as for :class:`CascadeMaskRoIHead`, and of the segmentation ``"semantic_logits"`` (N, K, H / 8, W / 8);
        with targets the masks' own ``"mask_proposals_0"``, ``"mask_matched_0"`` and so on.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        units: int = 1024,
        samples: int = 512,
        mask_channels: int = 256,
        semantic_channels: int = 256,
        semantic_classes: int | None = 183,
        score_threshold: float = 0.001,
        pairs: int = 4096,
        iou_threshold: float = 0.5,
        detections: int = 100,
    ):
        super().__init__(in_channels, num_classes, units, samples)
        self.postprocess = CascadePostProcess(score_threshold, pairs, iou_threshold, detections)
        self.mask_roi_extractor = nn.ModuleList(RoIExtractor("mmdet", 14) for _ in STDS)
        self.mask_head = nn.ModuleList(
            HTCMaskHead(in_channels, mask_channels, num_classes, stage == 0) for stage in range(len(STDS))
        )
        self.semantic_roi_extractor = RoIExtractor("mmdet", 14, (FUSED,))
        self.semantic_head = None
        if semantic_classes is not None:
            self.semantic_head = FusedSemanticHead(in_channels, semantic_channels, semantic_classes)

    def pooled(self, extractor, maps, boxes):
        """Features of boxes plus those of the segmentation at the same place."""
        x = extractor(maps, boxes)
        if self.semantic_head is None:
            return x
        semantic = self.semantic_roi_extractor({FUSED: maps["semantic"]}, boxes)
        return x + (semantic if semantic.shape[-1] == x.shape[-1] else F.avg_pool2d(semantic, 2))

    def classify(self, stage: int, maps, boxes):
        found = self.bbox_head[stage](self.pooled(self.bbox_roi_extractor[stage], maps, boxes))
        logits, deltas = (single(values) for values in found)
        return logits.reshape(-1, boxes.shape[1], logits.shape[-1]), deltas.reshape(-1, boxes.shape[1], 4)

    def segment(self, stage: int, maps, boxes) -> list:
        """Mask logits (N, R, K, 28, 28) of boxes (N, R, 4), of all heads up to a stage."""
        features = self.pooled(self.mask_roi_extractor[stage], maps, boxes)
        found, before = [], None
        for head in list(self.mask_head)[: stage + 1]:
            logits, before = head(features, before)
            found.append(logits.reshape(-1, boxes.shape[1], *logits.shape[1:]))  # mirror: come first
        return found

    def forward(self, maps, proposals, image_size, targets=None, given: bool = False):
        segmented = {}
        if self.semantic_head is not None:
            segmented["semantic_logits"], embedding = self.semantic_head(maps)
            maps = {**maps, "semantic": embedding}
        found = {**super().forward(maps, proposals, image_size, targets, given), **segmented}
        if targets is not None:
            return found
        if not given:
            found |= self.postprocess({**found, "image_size": image_size})
        boxes = found["proposals"] if given else found["boxes"]
        masks = sum(torch.sigmoid(logits) for logits in self.segment(len(STDS) - 1, maps, boxes)) / len(STDS)
        return {**found, "masks": masks if given else of_class(masks, found["labels"])}

    def moved(self, stage: int, boxes, matched, deltas, image_size, targets):
        """A stage's refined boxes, without the objects that were added to them."""
        itself = (boxes == take_rows(targets["boxes"], matched)).all(-1) & (matched >= 0)
        return self.refine(stage, torch.where(itself[..., None], 0.0, boxes), deltas, image_size)

    def learn(self, maps, proposals, image_size, targets):
        found = {}
        for stage, overlap in enumerate(OVERLAPS):
            options = {"positive": overlap, "low_quality": "forced"}
            boxes, matched = sample_rois(proposals, targets, self.convention, self.samples, **options)
            logits, deltas = self.classify(stage, maps, boxes)
            of_stage = {"proposals": boxes, "matched": matched, "class_logits": logits, "box_deltas": deltas}
            proposals = self.moved(stage, boxes, matched, deltas, image_size, targets)
            boxes, matched = sample_rois(proposals, targets, self.convention, self.samples, **options)
            boxes, matched = (rows[:, : int(self.samples * SHARE)] for rows in (boxes, matched))
            masks = self.segment(stage, maps, boxes)[-1]
            of_stage |= {"mask_proposals": boxes, "mask_matched": matched}
            of_stage["mask_logits"] = of_class(masks, take_rows(targets["labels"], matched))
            found |= {f"{key}_{stage}": value for key, value in of_stage.items()}
        return found


class HTCCriterion(CascadeCriterion):
    """The losses of Cascade Mask R-CNN, and of the segmentation.

    Args:
        samples: see :class:`CascadeCriterion`.

    Inputs: as for :class:`MaskCriterion`; ``targets["sem_seg"]`` (N, H, W) int64, 255 is ignored, of a model that
        segments.
    Returns: as for :class:`CascadeMaskCriterion`, and of a model that segments ``"loss_semantic_seg"``, whose divisor
        also counts ignored pixels.
    """

    def box_losses(self, outputs, targets):
        losses = super().box_losses(outputs, targets)
        for stage, weight in enumerate(WEIGHTS):
            names = ("mask_logits", "mask_proposals", "mask_matched")
            loss = mask_loss(*(outputs[f"{name}_{stage}"] for name in names), targets["masks"], True)
            losses[f"s{stage}.loss_mask"] = weight * loss
        if "semantic_logits" not in outputs:
            return losses
        logits, labels = outputs["semantic_logits"], targets["sem_seg"][:, ::8, ::8]
        counted = labels != IGNORED_LABEL
        logits = torch.log_softmax(logits.flatten(2).transpose(1, 2), -1)  # (N, H W, K)
        labels, counted = torch.where(counted, labels, 0).flatten(1), counted.flatten(1)
        entropy = -logits.gather(2, labels[..., None])[..., 0]
        entropy = torch.where(counted, entropy, 0.0)
        return {**losses, "loss_semantic_seg": SEGMENTATION_WEIGHT * entropy.mean()}


def htc_r50_fpn(
    layers=(3, 4, 6, 3),
    num_classes: int = 80,
    out_channels: int = 256,
    units: int = 1024,
    mask_channels: int = 256,
    semantic_channels: int = 256,
    semantic_classes: int | None = 183,
    candidates: tuple[int, int] = (2000, 1000),
    proposals: tuple[int, int] = (2000, 1000),
    samples: int = 512,
    pairs: int = 4096,
    detections: int = 100,
    **options,
) -> TwoStageDetector:
    widths = mask_channels, semantic_channels, semantic_classes
    head = HTCRoIHead(out_channels, num_classes, units, samples, *widths, pairs=pairs, detections=detections)
    return pyramid_detector(head, layers, out_channels, candidates, proposals, **options)


def htc_r101_fpn(layers=(3, 4, 23, 3), **options) -> TwoStageDetector:
    return htc_r50_fpn(layers=layers, **options)


def htc_without_semantic_r50_fpn(semantic_classes=None, **options) -> TwoStageDetector:
    return htc_r50_fpn(semantic_classes=semantic_classes, **options)


def htc_x101_32x4d_fpn(layers=(3, 4, 23, 3), groups=32, base_width=4, **options) -> TwoStageDetector:
    return htc_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)


def htc_x101_64x4d_fpn(layers=(3, 4, 23, 3), groups=64, base_width=4, **options) -> TwoStageDetector:
    return htc_r50_fpn(layers=layers, groups=groups, base_width=base_width, **options)
