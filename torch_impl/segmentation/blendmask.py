"""BlendMask: bases that all instances share, blended inside a box by the attention that a point of a pyramid predicts.

"BlendMask: Top-Down Meets Bottom-Up for Instance Segmentation", 2020, arXiv:2001.00309. Parameter names:
aim-uofa/AdelaiDet ``modeling/blendmask`` (non-commercial licence: names and formulas only). What to look at: YOLACT's
coefficients vary within the box.

Mirror notes:
- NCHW here, NHWC in TensorFlow, where attention is transposed before it is enlarged.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.boxes.iou import box_area
from torch_impl.boxes.points import boxes_of_distances, distances_to_sides
from torch_impl.boxes.sampling import first_positives
from torch_impl.detection._dense import PRIOR_BIAS, STRIDES, DenseHead, level_points, level_rows
from torch_impl.detection.fcos import FCOSCriterion, FCOSPostProcess, centerness
from torch_impl.layers.resize import map_size, resize_bilinear
from torch_impl.layers.roi_align import roi_align
from torch_impl.layers.rows import take_rows
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.losses.dense import binary_cross_entropy
from torch_impl.rois.masks import mask_targets, paste_masks
from torch_impl.segmentation._detectron2 import ResNetFPN
from torch_impl.segmentation.unet import Upsample

__all__ = [
    "BasisModule",
    "BlendMask",
    "BlendMaskCriterion",
    "BlendMaskPostProcess",
    "FCOSTowers",
    "ProposalGenerator",
    "blend",
    "blendmask_550_criterion",
    "blendmask_550_postprocess",
    "blendmask_550_r50",
    "blendmask_r50",
    "blendmask_r101",
    "blendmask_rt_criterion",
    "blendmask_rt_postprocess",
    "blendmask_rt_r50",
]

BASES_SCALE = 0.25  # of the bases to the image
SEMANTIC_STRIDE = 8


class FCOSTowers(nn.Module):
    """AdelaiDet's head of FCOS: two towers and three convolutions.

    Args:
        channels: channels of the levels and of the towers.
        num_classes: classes K.
        num_convs: convolutions of each tower.
        norm_groups: groups of the normalisation after each of them.
        shared_convs: convolutions before the towers, for both.

    Inputs: dict of levels (N, C, H, W).
    Returns: dict: ``"cls_p3"`` ... (N, K, H, W) logits, ``"reg_p3"`` ... (N, 4, H, W) left, top, right, bottom in
        strides, ``"ctr_p3"`` ... (N, 1, H, W) logits; and the list of the box tower's outputs.
    """

    def __init__(
        self, channels: int, num_classes: int, num_convs: int = 4, norm_groups: int = 32, shared_convs: int = 0
    ):
        super().__init__()
        for name, count in (("share_tower", shared_convs), ("cls_tower", num_convs), ("bbox_tower", num_convs)):
            layers = []
            for _ in range(count):
                conv = nn.Conv2d(channels, channels, 3, 1, 1)
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.GroupNorm(norm_groups, channels), nn.ReLU()]
            setattr(self, name, nn.Sequential(*layers))
        self.cls_logits = DenseHead.last(channels, num_classes, PRIOR_BIAS)
        self.bbox_pred = DenseHead.last(channels, 4)
        self.ctrness = DenseHead.last(channels, 1)

    def forward(self, maps):
        found, towers = {"cls": [], "reg": [], "ctr": []}, []
        for x in maps.values():
            x = self.share_tower(x)
            of_boxes = self.bbox_tower(x)
            towers.append(of_boxes)
            found["cls"].append(self.cls_logits(self.cls_tower(x)))
            found["reg"].append(F.relu(self.bbox_pred(of_boxes)))
            found["ctr"].append(self.ctrness(of_boxes))
        return DenseHead.named(found), towers


class ProposalGenerator(nn.Module):
    """Holds :class:`FCOSTowers` under its name, ``fcos_head``.

    Args, inputs, returns: as there.
    """

    def __init__(
        self, channels: int, num_classes: int, num_convs: int = 4, norm_groups: int = 32, shared_convs: int = 0
    ):
        super().__init__()
        self.fcos_head = FCOSTowers(channels, num_classes, num_convs, norm_groups, shared_convs)

    def forward(self, maps):
        return self.fcos_head(maps)


def conv_norm(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 3x3 convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class BasisModule(nn.Module):
    """The bases, and for training the classes of pixels.

    Args:
        in_channels: channels of the levels.
        channels: channels of the convolutions.
        num_bases: bases B.
        num_classes: classes K, without background.
        num_convs: convolutions before the enlargement.

    Inputs: list of P3 to P5 (N, C, H_i, W_i).
    Returns: bases (N, B, 2 H, 2 W) and pixel logits (N, K + 1, H, W), 0 is background; H and W of P3.
    """

    def __init__(self, in_channels: int, channels: int, num_bases: int, num_classes: int, num_convs: int = 3):
        super().__init__()
        self.refine = nn.ModuleList(nn.Sequential(*conv_norm(in_channels, channels)) for _ in range(3))
        towers = [nn.Sequential(*conv_norm(channels, channels)) for _ in range(num_convs)]
        last = nn.Conv2d(channels, num_bases, 1)
        towers += [Upsample(), nn.Sequential(*conv_norm(channels, channels)), last]
        self.tower = nn.Sequential(*towers)
        head = [*conv_norm(in_channels, channels), *conv_norm(channels, channels)]
        self.seg_head = nn.Sequential(*head, nn.Conv2d(channels, num_classes + 1, 1))

    def forward(self, levels):
        x = self.refine[0](levels[0])
        for refine, level in zip(self.refine[1:], levels[1:]):
            x = x + resize_bilinear(refine(level), map_size(x))
        return self.tower(x), self.seg_head(levels[0])


class BlendMask(nn.Module):
    """Pyramid, points, bases.

    Args:
        layers, planes: of the residual network.
        num_classes: classes K.
        out_channels: channels of the levels.
        num_convs, norm_groups, shared_convs: of the towers, see :class:`FCOSTowers`.
        basis_channels, num_bases, basis_convs: see :class:`BasisModule`.
        attention: height and width A of an instance's attention.
        last: index of the coarsest level, 5, 6 or 7.
        norm: of the residual network, see :func:`choose_norm`.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: the maps of :class:`FCOSTowers`, ``"top_p3"`` ... (N, B A^2, H, W), ``"bases"`` (N, B, H / 4, W / 4),
        ``"sem"`` (N, K + 1, H / 8, W / 8).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 80,
        out_channels: int = 256,
        num_convs: int = 4,
        norm_groups: int = 32,
        basis_channels: int = 128,
        num_bases: int = 4,
        attention: int = 14,
        shared_convs: int = 0,
        basis_convs: int = 3,
        last: int = 7,
        norm: str = "frozen",
    ):
        super().__init__()
        self.backbone = ResNetFPN(layers, planes, out_channels, last=last, norm=norm)
        self.proposal_generator = ProposalGenerator(out_channels, num_classes, num_convs, norm_groups, shared_convs)
        self.basis_module = BasisModule(out_channels, basis_channels, num_bases, num_classes, basis_convs)
        self.top_layer = DenseHead.last(out_channels, num_bases * attention**2)

    def forward(self, images):
        maps = self.backbone(images)
        bases, places = self.basis_module(list(maps.values())[:3])
        found, towers = self.proposal_generator(maps)
        attention = DenseHead.named({"top": [self.top_layer(x) for x in towers]})
        return {**found, **attention, "bases": bases, "sem": places}


def pool_bases(bases, boxes, size: int):
    """Bases inside boxes: (N, B, h, w), (N, Q, 4) in pixels of the image -> (N, Q, B, size, size)."""
    count = boxes.shape[1]
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(-1, count).reshape(-1)
    found = roi_align(bases, boxes.detach().reshape(-1, 4), image, size, BASES_SCALE, 1, True)
    return found.reshape(-1, count, *found.shape[1:])


def blend(pooled, attention):
    """Sum of the bases, weighted at every position.

    Args:
        pooled: (N, Q, B, R, R) bases inside boxes.
        attention: (N, Q, B A^2), base by base, each row by row.

    Returns:
        (N, Q, R, R) logits.
    """
    count, bases, size = pooled.shape[1:4]
    side = int((attention.shape[2] // bases) ** 0.5)
    weight = resize_bilinear(attention.reshape(-1, bases, side, side), (size, size)).softmax(1)
    return (pooled * weight.reshape(-1, count, bases, size, size)).sum(2)


class BlendMaskCriterion(FCOSCriterion):
    """FCOS's losses, a cross-entropy of the blended masks, and one of the classes of pixels.

    Args:
        max_masks: points per image whose masks count, the first ones.
        size: height and width R of a mask.
        semantic_weight: of the classes of pixels.
        alpha, gamma, strides: see :class:`FCOSCriterion`.

    Inputs: ``outputs`` of the model; ``targets``: those of :class:`FCOSCriterion`, and ``"masks"`` (N, M, H, W) 0 or 1,
        of the images' height and width.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"loss_centerness"``, ``"loss_mask"``,
        ``"loss_basis_sem"``, ``"total"``.
    """

    def __init__(
        self,
        max_masks: int = 500,
        size: int = 56,
        semantic_weight: float = 0.3,
        alpha: float = 0.25,
        gamma: float = 2.0,
        strides: tuple[int, ...] = STRIDES,
    ):
        super().__init__("giou", True, 1.5, True, alpha, gamma, strides)
        self.max_masks, self.size, self.semantic_weight = max_masks, size, semantic_weight

    def box_losses(self, distances, wanted):
        origin = torch.zeros_like(distances[..., :2])
        area, wanted_area = (box_area(boxes_of_distances(origin, x)) for x in (distances, wanted))
        nearer = distances < wanted
        smaller, larger = torch.where(nearer, distances, wanted), torch.where(nearer, wanted, distances)
        shared, hull = (box_area(boxes_of_distances(origin, x)) for x in (smaller, larger))
        union = area + wanted_area - shared
        return 1 - (shared + 1) / (union + 1) + (hull - union) / hull  # NOTE: plus one square stride, as there

    def terms(self, outputs, targets, index, positive):
        found = super().terms(outputs, targets, index, positive)
        masks = targets["masks"].to(outputs["bases"].dtype)
        cells, drawn = first_positives(positive, self.max_masks)
        owner, slots = take_rows(index, cells), masks.shape[1]

        boxes = torch.where(targets["valid"][..., None], targets["boxes"].to(masks.dtype), 1.0)
        pooled = pool_bases(outputs["bases"], boxes, self.size)
        pooled = take_rows(pooled.flatten(2), owner).unflatten(2, tuple(pooled.shape[2:]))
        logits = blend(pooled, take_rows(level_rows(outputs, "top", self.strides), cells)).flatten(2)
        slot = torch.arange(slots, device=masks.device).expand(masks.shape[0], -1)
        wanted = take_rows(mask_targets(boxes, slot, masks, self.size, True).flatten(2), owner)
        points = torch.from_numpy(np.concatenate(level_points(outputs, self.strides))).to(masks)
        sides = distances_to_sides(points[cells], take_rows(boxes, owner))
        weight = centerness(torch.where(drawn[..., None], sides, 1.0))
        losses = binary_cross_entropy(logits, wanted).mean(2)
        mask = torch.where(drawn, losses * weight, 0.0).sum()
        mask = mask / torch.clamp(torch.where(drawn, weight, 0.0).sum(), min=1e-6)

        inside = (masks * targets["valid"][..., None, None])[:, :, ::SEMANTIC_STRIDE, ::SEMANTIC_STRIDE]
        number = torch.arange(1, slots + 1, device=masks.device)[:, None, None]
        last = (inside * number).amax(1).flatten(1).long()  # the last of several objects; 0 for none
        labels = torch.where(last > 0, take_rows(targets["labels"], last - 1) + 1, 0)
        places = self.semantic_weight * cross_entropy(outputs["sem"].flatten(2).transpose(1, 2), labels)
        return {**found, "loss_mask": mask, "loss_basis_sem": places}


class BlendMaskPostProcess(FCOSPostProcess):
    """FCOS's results, chosen by the geometric mean of class and centredness, and their blended masks.

    Args:
        score_threshold, candidates, iou_threshold, detections, strides: see :class:`FCOSPostProcess`.
        size: height and width R of a mask.
        mask_threshold: a pixel belongs to a mask if its probability is at least this.

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
        size: int = 56,
        mask_threshold: float = 0.5,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, strides, True)
        self.size, self.mask_threshold = size, mask_threshold

    def ranked(self, outputs):
        classes, central = (torch.sigmoid(level_rows(outputs, key, self.strides)) for key in ("cls", "ctr"))
        return classes * central

    def final(self, outputs, scores, index):
        return scores.sqrt()

    def forward(self, outputs, input_size):
        cells, found = self.detect(outputs, input_size)
        pooled = pool_bases(outputs["bases"], found["boxes"], self.size)
        masks = torch.sigmoid(blend(pooled, take_rows(level_rows(outputs, "top", self.strides), cells)))
        masks = paste_masks(masks, found["boxes"], tuple(int(n) for n in input_size), "mmdet")
        return {**found, "masks": (masks >= self.mask_threshold) & found["valid"][..., None, None]}


def blendmask_550_criterion(**options) -> BlendMaskCriterion:
    """The losses of four levels."""
    return BlendMaskCriterion(**{"strides": STRIDES[:4], **options})


def blendmask_550_postprocess(**options) -> BlendMaskPostProcess:
    """The results of four levels."""
    return BlendMaskPostProcess(**{"strides": STRIDES[:4], **options})


def blendmask_rt_criterion(**options) -> BlendMaskCriterion:
    """The losses of three levels."""
    return BlendMaskCriterion(**{"strides": STRIDES[:3], **options})


def blendmask_rt_postprocess(**options) -> BlendMaskPostProcess:
    """The results of three levels."""
    return BlendMaskPostProcess(**{"strides": STRIDES[:3], **options})


def blendmask_r50(layers=(3, 4, 6, 3), **options) -> BlendMask:
    return BlendMask(layers, **options)


def blendmask_r101(layers=(3, 4, 23, 3), **options) -> BlendMask:
    return BlendMask(layers, **options)


def blendmask_550_r50(
    num_convs: int = 0, shared_convs: int = 3, basis_convs: int = 2, last: int = 6, **options
) -> BlendMask:
    return blendmask_r50(num_convs=num_convs, shared_convs=shared_convs, basis_convs=basis_convs, last=last, **options)


def blendmask_rt_r50(last: int = 5, norm: str = "batch", **options) -> BlendMask:
    return blendmask_550_r50(last=last, norm=norm, **options)
