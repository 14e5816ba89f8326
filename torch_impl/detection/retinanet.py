"""RetinaNet: a class and a box for every anchor of a feature pyramid, trained with the focal loss.

"Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002.
Parameter names: torchvision ``detection/retinanet.py`` (BSD-3); the ``_mmdet`` variants: mmdet ``RetinaNet``
    (Apache-2.0).
The two differ in more than names: torchvision rounds its anchors, has a ReLU before P7 and normalises the losses by
image; mmdet does not round, has no ReLU and normalises by batch. torchvision's class 0 is background and never a
target, mmdet's class 0 is the first object.

Mirror notes:
- NCHW here, NHWC in TensorFlow: the heads' maps are transposed before they become rows of anchors, there not.
"""

import functools
import math

import torch
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.assignment import IGNORED, assign_max_iou
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.boxes.results import results
from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet
from torch_impl.layers.conv_module import ConvModule
from torch_impl.layers.initialization import normal
from torch_impl.layers.nms import batched_nms
from torch_impl.layers.normalization import choose_norm
from torch_impl.layers.rows import anchor_rows, take_rows
from torch_impl.layers.top_k import top_k
from torch_impl.losses.box import giou_loss, l1_loss, smooth_l1_loss
from torch_impl.losses.focal import sigmoid_focal_loss
from torch_impl.necks.fpn import FPN, FeaturePyramidNetwork

__all__ = [
    "MMDetRetinaNet",
    "RetinaHead",
    "RetinaNet",
    "RetinaNetCriterion",
    "RetinaNetHead",
    "RetinaNetPostProcess",
    "retinanet_mmdet_criterion",
    "retinanet_mmdet_postprocess",
    "retinanet_r18_fpn_mmdet",
    "retinanet_r50_fpn_mmdet",
    "retinanet_r101_fpn_mmdet",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_v2_criterion",
]

LEVELS = ("p3", "p4", "p5", "p6", "p7")
STRIDES = (8, 16, 32, 64, 128)
RATIOS = (0.5, 1.0, 2.0)  # height / width
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))  # three sizes on each level
BASE_SIZE = 4  # in strides
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)  # logit of every class before training: probability 0.01
EPS = 1.1920929e-07  # of float32; mmdet adds it to its divisor


def tower(channels: int, num_convs: int, norm_groups: int | None):
    """torchvision's 3x3 convolutions with ReLU; with group normalisation they have no bias."""
    blocks = []
    for _ in range(num_convs):
        block = [nn.Conv2d(channels, channels, 3, 1, 1, bias=norm_groups is None)]
        block += [] if norm_groups is None else [nn.GroupNorm(norm_groups, channels, eps=1e-5)]
        blocks.append(nn.Sequential(*block, nn.ReLU()))
    return nn.Sequential(*blocks)


class RetinaNetClassificationHead(nn.Module):
    """Class logits of every anchor.  Dict of (N, C, H, W) -> (N, sum of H * W * A, K)."""

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_convs: int, norm_groups: int | None):
        super().__init__()
        self.num_classes = num_classes
        self.conv = tower(channels, num_convs, norm_groups)
        self.cls_logits = nn.Conv2d(channels, num_anchors * num_classes, 3, 1, 1)
        normal(self, 0.01)
        nn.init.constant_(self.cls_logits.bias, PRIOR_BIAS)

    def forward(self, maps):
        return torch.cat([anchor_rows(self.cls_logits(self.conv(x)), self.num_classes) for x in maps.values()], 1)


class RetinaNetRegressionHead(nn.Module):
    """Box deltas of every anchor.  Dict of (N, C, H, W) -> (N, sum of H * W * A, 4)."""

    def __init__(self, channels: int, num_anchors: int, num_convs: int, norm_groups: int | None):
        super().__init__()
        self.conv = tower(channels, num_convs, norm_groups)
        self.bbox_reg = nn.Conv2d(channels, num_anchors * 4, 3, 1, 1)
        normal(self, 0.01)

    def forward(self, maps):
        return torch.cat([anchor_rows(self.bbox_reg(self.conv(x)), 4) for x in maps.values()], 1)


class RetinaNetHead(nn.Module):
    """Classification and box regression, shared by all levels (torchvision's names).

    Args:
        channels: channels of the levels and of the convolutions.
        num_anchors: anchors A of a cell.
        num_classes: classes K.
        num_convs: convolutions of each head before the last one.
        norm_groups: groups of a group normalisation instead of their biases, or None.

    Inputs: dict of levels (N, C, H, W).
    Returns: class logits (N, sum of H * W * A, K), box deltas (N, sum of H * W * A, 4).
    """

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, num_convs: int = 4, norm_groups: int | None = None
    ):
        super().__init__()
        self.classification_head = RetinaNetClassificationHead(
            channels, num_anchors, num_classes, num_convs, norm_groups
        )
        self.regression_head = RetinaNetRegressionHead(channels, num_anchors, num_convs, norm_groups)

    def forward(self, maps):
        return self.classification_head(maps), self.regression_head(maps)


class RetinaHead(nn.Module):
    """The same with mmdet's names, always without normalisation.

    Args:
        channels: channels of the levels and of the convolutions.
        num_anchors: anchors A of a cell.
        num_classes: classes K.
        num_convs: convolutions of each tower before the last one.

    Inputs and returns: as for :class:`RetinaNetHead`.
    """

    def __init__(self, channels: int, num_anchors: int, num_classes: int, num_convs: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.cls_convs = nn.ModuleList(ConvModule(channels, channels, 3, 1, 1) for _ in range(num_convs))
        self.reg_convs = nn.ModuleList(ConvModule(channels, channels, 3, 1, 1) for _ in range(num_convs))
        self.retina_cls = nn.Conv2d(channels, num_anchors * num_classes, 3, 1, 1)
        self.retina_reg = nn.Conv2d(channels, num_anchors * 4, 3, 1, 1)
        normal(self, 0.01)
        nn.init.constant_(self.retina_cls.bias, PRIOR_BIAS)

    def forward(self, maps):
        logits, deltas = [], []
        for x in maps.values():
            y = x
            for conv in self.cls_convs:
                y = conv(y)
            logits.append(anchor_rows(self.retina_cls(y), self.num_classes))
            for conv in self.reg_convs:
                x = conv(x)
            deltas.append(anchor_rows(self.retina_reg(x), 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)


class BackboneWithFPN(nn.Module):
    """Residual network and pyramid.  (N, 3, H, W) -> dict of five levels."""

    def __init__(self, body, fpn):
        super().__init__()
        self.body, self.fpn = body, fpn

    def forward(self, images):
        return self.fpn(self.body(images))


class RetinaNet(nn.Module):
    """Residual network, pyramid P3 to P7, heads (torchvision's names and anchors).

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        norm, norm_eps, norm_eval, frozen_stages: of its normalisation, see :class:`ResNet`. The published weights of
            the first variant need ``norm="frozen", norm_eps=0.0``.
        num_classes: classes K, including the background (0).
        out_channels: channels of the levels.
        extra: where P6 comes from, see :class:`FeaturePyramidNetwork`.
        num_convs: convolutions of each head before the last one.
        norm_groups: groups of the heads' group normalisation, or None.

    Inputs: (N, 3, H, W) float, normalised.
    Returns: dict: ``"cls_logits"`` (N, A, K), ``"bbox_regression"`` (N, A, 4) deltas; ``"anchors_p3"`` to
        ``"anchors_p7"`` (A_l, 4) xyxy in pixels, the anchors of each level, A together; ``"image_size"`` (2,) int64,
        H and W.
    """

    def __init__(
        self,
        block=Bottleneck,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        num_classes: int = 91,
        out_channels: int = 256,
        extra: str = "on_output",
        num_convs: int = 4,
        norm_groups: int | None = None,
    ):
        super().__init__()
        body = ResNet(
            block,
            layers,
            planes=planes,
            norm=functools.partial(choose_norm(norm), eps=norm_eps),
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.backbone = BackboneWithFPN(body, FeaturePyramidNetwork(body.channels, out_channels, extra))
        # the sizes are also truncated to whole pixels: 32, 40, 50; 64, 80, 101; ...
        self.cells = [
            cell_anchors([int(BASE_SIZE * stride * octave) for octave in OCTAVES], RATIOS, True) for stride in STRIDES
        ]
        self.head = RetinaNetHead(out_channels, len(self.cells[0]), num_classes, num_convs, norm_groups)

    def forward(self, images):
        maps = self.backbone(images)
        logits, deltas = self.head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        height, width = images.shape[2:]
        for (level, x), cell in zip(maps.items(), self.cells):
            size = x.shape[2:]
            # NOTE: not the nominal stride if the image is not a multiple of it
            anchors = grid_anchors(cell, size, (height // size[0], width // size[1]))
            outputs[f"anchors_{level}"] = torch.from_numpy(anchors).to(x)
        return {**outputs, "image_size": torch.tensor([height, width], device=x.device)}


class MMDetRetinaNet(nn.Module):
    """The same with mmdet's names and anchors.

    Args:
        block, layers, planes: of the residual network, see :class:`ResNet`.
        norm, norm_eps, norm_eval, frozen_stages: of its normalisation, see :class:`ResNet`.
        num_classes: classes K, without a background.
        out_channels: channels of the levels.
        extra, relu_before_extra: of the levels P6 and P7, see :class:`FPN`.
        num_convs: convolutions of each tower of the head before the last one.

    Inputs and returns: as for :class:`RetinaNet`.
    """

    def __init__(
        self,
        block=Bottleneck,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        norm: str = "batch",
        norm_eps: float = 1e-5,
        norm_eval: bool = True,
        frozen_stages: int = 1,
        num_classes: int = 80,
        out_channels: int = 256,
        extra: str = "on_input",
        relu_before_extra: bool = False,
        num_convs: int = 4,
    ):
        super().__init__()
        self.backbone = ResNet(
            block,
            layers,
            planes=planes,
            norm=functools.partial(choose_norm(norm), eps=norm_eps),
            norm_eval=norm_eval,
            frozen_stages=frozen_stages,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.neck = FPN(self.backbone.channels, out_channels, len(LEVELS), extra, relu_before_extra)
        self.cells = [cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS) for stride in STRIDES]
        self.bbox_head = RetinaHead(out_channels, len(self.cells[0]), num_classes, num_convs)

    def forward(self, images):
        maps = self.neck(self.backbone(images))
        logits, deltas = self.bbox_head(maps)
        outputs = {"cls_logits": logits, "bbox_regression": deltas}
        for (level, x), cell, stride in zip(maps.items(), self.cells, STRIDES):
            anchors = grid_anchors(cell, x.shape[2:], (stride, stride))
            outputs[f"anchors_{level}"] = torch.from_numpy(anchors).to(x)
        return {**outputs, "image_size": torch.tensor(images.shape[2:], device=images.device)}


class RetinaNetCriterion(nn.Module):
    """Focal loss of the classes and a regression loss of the boxes, with the assignment in the graph.

    Args:
        box_loss: "l1" or "smooth_l1" of the deltas, or "giou" of the boxes.
        beta: of the smooth L1 loss.
        alpha, gamma: of the focal loss.
        normalise: "image": the sums of every image are divided by its number of matched anchors, at least 1, and
            averaged (torchvision); "batch": the sums over the batch are divided by the sum of these numbers (mmdet).
        positive, negative, low_quality: of the assignment, see :func:`assign_max_iou`.
        clamp: of the coder, see :class:`DeltaCoder`.
        keys: names of the two losses.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64
        class indices (torchvision's variants never use 0), ``"valid"`` (N, M) bool, False for padding. Boxes without
        area take no part (torchvision rejects them, mmdet's loader drops them).
    Returns: dict of scalars: the two losses under ``keys``, and ``"total"``.
    Raises: ValueError for an unknown option.
    """

    def __init__(
        self,
        box_loss: str = "l1",
        beta: float = 1 / 9,
        alpha: float = 0.25,
        gamma: float = 2.0,
        normalise: str = "image",
        positive: float = 0.5,
        negative: float = 0.4,
        low_quality: str | None = "own",
        clamp: str = "upper",
        keys: tuple[str, str] = ("classification", "bbox_regression"),
    ):
        super().__init__()
        if box_loss not in ("l1", "smooth_l1", "giou"):
            raise ValueError(f"box_loss={box_loss!r} must be 'l1', 'smooth_l1' or 'giou'")
        if normalise not in ("image", "batch"):
            raise ValueError(f"normalise={normalise!r} must be 'image' or 'batch'")
        self.box_loss, self.beta, self.alpha, self.gamma, self.normalise = box_loss, beta, alpha, gamma, normalise
        self.positive, self.negative, self.low_quality = positive, negative, low_quality
        self.coder, self.keys = DeltaCoder(clamp=clamp), tuple(keys)

    def forward(self, outputs, targets):
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        anchors = torch.cat([outputs[f"anchors_{level}"] for level in LEVELS])  # (A, 4)
        boxes = targets["boxes"]
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        iou = pairwise_iou(boxes, anchors)  # (N, M, A)
        matched = assign_max_iou(iou, valid, self.positive, self.negative, self.low_quality)  # (N, A)
        foreground = matched >= 0

        labels = take_rows(targets["labels"], matched)
        classes = torch.arange(logits.shape[-1], device=logits.device)
        wanted = ((labels[..., None] == classes) & foreground[..., None]).to(logits.dtype)  # (N, A, K)
        losses = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma).sum(-1)
        classification = torch.where(matched == IGNORED, 0.0, losses).sum(1)  # (N,)

        # an anchor without ground truth is its own target: finite, and masked
        wanted = torch.where(foreground[..., None], take_rows(boxes, matched), anchors)
        regression = torch.where(foreground, self._box_losses(deltas, wanted, anchors), 0.0).sum(1)  # (N,)

        count = foreground.to(logits.dtype).sum(1).clamp(min=1.0)
        if self.normalise == "image":
            classification, regression = ((loss / count).mean() for loss in (classification, regression))
        else:
            divisor = count.sum() + EPS
            classification, regression = (loss.sum() / divisor for loss in (classification, regression))
        return {self.keys[0]: classification, self.keys[1]: regression, "total": classification + regression}

    def _box_losses(self, deltas, wanted, anchors):
        if self.box_loss == "giou":
            return giou_loss(self.coder.decode(deltas, anchors), wanted)
        wanted = self.coder.encode(wanted, anchors)
        return l1_loss(deltas, wanted) if self.box_loss == "l1" else smooth_l1_loss(deltas, wanted, self.beta)


class RetinaNetPostProcess(nn.Module):
    """The best boxes of every image: threshold, best pairs of anchor and class per level, decoding, NMS by class.

    Args:
        score_threshold: pairs of at most this probability are dropped.
        candidates: pairs kept per level.
        iou_threshold: boxes of one class overlap if their IoU is larger.
        detections: results per image, D.
        clamp: of the coder, see :class:`DeltaCoder`.
        drop_empty: drop boxes that have no area inside the image (mmdet).

    Inputs: ``outputs`` of the model; ``"image_size"`` may also be (N, 2), for images that were padded on the right and
        at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, ``"labels"`` (N, D) int64,
        ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 300,
        clamp: str = "upper",
        drop_empty: bool = False,
    ):
        super().__init__()
        self.score_threshold, self.candidates = score_threshold, candidates
        self.iou_threshold, self.detections = iou_threshold, detections
        self.coder, self.drop_empty = DeltaCoder(clamp=clamp), drop_empty

    def forward(self, outputs):
        anchors = [outputs[f"anchors_{level}"] for level in LEVELS]
        classes = outputs["cls_logits"].shape[-1]
        logits = outputs["cls_logits"].flatten(1)
        found, start = [], 0
        for level in logits.split([len(of_level) * classes for of_level in anchors], 1):
            scores, pairs = top_k(torch.sigmoid(level), min(self.candidates, level.shape[1]))
            found.append((scores, pairs + start))
            start += level.shape[1]
        scores, pairs = (torch.cat(parts, 1) for parts in zip(*found))
        index = pairs // classes
        labels = pairs - index * classes
        deltas = take_rows(outputs["bbox_regression"], index)
        boxes = clip_boxes(self.coder.decode(deltas, torch.cat(anchors)[index]), outputs["image_size"])
        valid = scores > self.score_threshold
        if self.drop_empty:
            valid = valid & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        index, valid = batched_nms(boxes, scores, labels, valid, self.iou_threshold, self.detections)
        return results(boxes, scores, labels, index, valid)


def retinanet_v2_criterion(**options) -> RetinaNetCriterion:
    """The losses of torchvision's second variant: GIoU of the boxes."""
    return RetinaNetCriterion(**{"box_loss": "giou", **options})


def retinanet_mmdet_criterion(**options) -> RetinaNetCriterion:
    """mmdet's losses."""
    own = {"normalise": "batch", "low_quality": "forced", "clamp": "both", "keys": ("loss_cls", "loss_bbox")}
    return RetinaNetCriterion(**{**own, **options})


def retinanet_mmdet_postprocess(**options) -> RetinaNetPostProcess:
    """mmdet's results: 100 per image, none without area."""
    return RetinaNetPostProcess(**{"detections": 100, "clamp": "both", "drop_empty": True, **options})


def retinanet_resnet50_fpn(**options) -> RetinaNet:
    """torchvision's first variant: P6 from P5, heads without normalisation."""
    return RetinaNet(**{"layers": (3, 4, 6, 3), "extra": "on_output", **options})


def retinanet_resnet50_fpn_v2(**options) -> RetinaNet:
    """torchvision's second variant: P6 from C5, group normalisation in the heads."""
    return RetinaNet(**{"layers": (3, 4, 6, 3), "extra": "on_input", "norm_groups": 32, **options})


def retinanet_r18_fpn_mmdet(**options) -> MMDetRetinaNet:
    return MMDetRetinaNet(**{"block": BasicBlock, "layers": (2, 2, 2, 2), **options})


def retinanet_r50_fpn_mmdet(**options) -> MMDetRetinaNet:
    return MMDetRetinaNet(**{"layers": (3, 4, 6, 3), **options})


def retinanet_r101_fpn_mmdet(**options) -> MMDetRetinaNet:
    return MMDetRetinaNet(**{"layers": (3, 4, 23, 3), **options})
