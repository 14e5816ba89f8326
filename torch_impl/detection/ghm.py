"""RetinaNet with harmonised gradients: gradients of common sizes, those of easy examples and outliers, count less.

"Gradient Harmonized Single-stage Detector", 2018, arXiv:1811.05181.
Parameter names: mmdet ``RetinaNet`` with ``losses/ghm_loss.py`` (Apache-2.0): running counts are in the head.

Mirror notes:
- The running counts are buffers here, non-trainable variables in TensorFlow.
"""

import torch
from torch import nn

from torch_impl.boxes.assignment import IGNORED, assign_max_iou
from torch_impl.boxes.coders import DeltaCoder
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.detection.retinanet import LEVELS, MMDetRetinaNet, retinanet_mmdet_postprocess
from torch_impl.layers.rows import take_rows
from torch_impl.losses.ghm import ghm_classification_loss, ghm_regression_loss

__all__ = [
    "GHMCriterion",
    "GHMRetinaNet",
    "GHMTrainer",
    "GradientBins",
    "retinanet_mmdet_postprocess",
    "retinanet_r50_fpn_ghm",
]

CLASS_BINS, BOX_BINS = 30, 10
LAST_CLASS_EDGE, LAST_BOX_EDGE = 1 + 1e-6, 1e3  # the last bins contain 1


class GradientBins(nn.Module):
    """Running counts of gradients by size; a model stores them for its checkpoints.

    Args:
        bins: number of bins, of equal width.
        last_edge: where the last bin ends.
    """

    def __init__(self, bins: int, last_edge: float):
        super().__init__()
        edges = torch.arange(bins + 1, dtype=torch.float32) / bins
        edges[-1] = last_edge
        self.register_buffer("edges", edges)  # mirror: buffers
        self.register_buffer("acc_sum", torch.zeros(bins))


class GHMRetinaNet(MMDetRetinaNet):
    """RetinaNet whose head keeps the running counts of its losses.

    Args:
        options: of :class:`MMDetRetinaNet`.

    Inputs and returns: as there, plus ``"acc_cls"`` (30,) and ``"acc_bbox"`` (10,), the running counts.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.bbox_head.loss_cls = GradientBins(CLASS_BINS, LAST_CLASS_EDGE)
        self.bbox_head.loss_bbox = GradientBins(BOX_BINS, LAST_BOX_EDGE)

    def forward(self, images):
        head = self.bbox_head
        return {**super().forward(images), "acc_cls": head.loss_cls.acc_sum, "acc_bbox": head.loss_bbox.acc_sum}


class GHMCriterion(nn.Module):
    """GHM-C of the classes, GHM-R of the deltas; level by level, fine to coarse, with counts carried along.

    Args:
        class_momentum, box_momentum: of the running counts.
        mu: see :func:`ghm_regression_loss`.
        box_weight: factor of the boxes' loss.
        positive, negative: of the assignment, see :func:`assign_max_iou`.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(
        self,
        class_momentum: float = 0.75,
        box_momentum: float = 0.7,
        mu: float = 0.02,
        box_weight: float = 10.0,
        positive: float = 0.5,
        negative: float = 0.4,
    ):
        super().__init__()
        self.class_momentum, self.box_momentum, self.mu, self.box_weight = class_momentum, box_momentum, mu, box_weight
        self.positive, self.negative, self.coder = positive, negative, DeltaCoder(clamp="both")

    def forward(self, outputs, targets):
        return self.losses_and_counts(outputs, targets)[0]

    def losses_and_counts(self, outputs, targets):
        """The losses, and the updated running counts of classes and boxes."""
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        levels = [outputs[f"anchors_{level}"] for level in LEVELS]
        anchors, boxes = torch.cat(levels), targets["boxes"].to(logits.dtype)
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        iou = pairwise_iou(boxes, anchors)  # (N, M, A)
        matched = assign_max_iou(iou, valid, self.positive, self.negative, "forced")  # (N, A)
        foreground = (matched >= 0)[..., None]
        labels = take_rows(targets["labels"], matched)
        classes = torch.arange(logits.shape[-1], device=logits.device)
        wanted = ((labels[..., None] == classes) & foreground).to(logits.dtype)  # (N, A, K)
        # an anchor without ground truth is its own target: finite, and masked
        target = torch.where(foreground, take_rows(boxes, matched), anchors)
        differences = deltas - self.coder.encode(target, anchors)
        of_classes = (matched != IGNORED)[..., None].expand_as(logits)
        of_boxes = foreground.expand_as(deltas)

        classification = regression = torch.zeros_like(logits[0, 0, 0])
        acc_cls, acc_bbox, start = outputs["acc_cls"], outputs["acc_bbox"], 0
        for level in levels:
            own = slice(start, start + level.shape[0])
            loss, acc_cls = ghm_classification_loss(
                logits[:, own], wanted[:, own], of_classes[:, own], acc_cls, self.class_momentum
            )
            classification = classification + loss
            loss, acc_bbox = ghm_regression_loss(
                differences[:, own], of_boxes[:, own], acc_bbox, self.box_momentum, self.mu
            )
            regression = regression + self.box_weight * loss
            start += level.shape[0]
        losses = {"loss_cls": classification, "loss_bbox": regression, "total": classification + regression}
        return losses, (acc_cls, acc_bbox)


class GHMTrainer:
    """Plain gradient steps; the running counts are written to the model after each.

    Args:
        model: a :class:`GHMRetinaNet`.
        criterion: a :class:`GHMCriterion`.
        learning_rate: of stochastic gradient descent.
    """

    def __init__(self, model, criterion, learning_rate: float = 2.0**-7):
        self.model, self.criterion, self.learning_rate = model, criterion, learning_rate

    def step(self, inputs, targets) -> dict:
        """One step; the losses before it."""
        losses, counts = self.criterion.losses_and_counts(self.model(*inputs.values()), targets)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(losses["total"], parameters)
        head = self.model.bbox_head
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= self.learning_rate * gradient
            for bins, value in zip((head.loss_cls, head.loss_bbox), counts):
                bins.acc_sum.copy_(value)
        return losses


def retinanet_r50_fpn_ghm(layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> GHMRetinaNet:
    return GHMRetinaNet(layers=layers, **options)
