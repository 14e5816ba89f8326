"""FreeAnchor: RetinaNet without a fixed assignment; of the fifty anchors nearest to an object the most probable learn
it.

"FreeAnchor: Learning to Match Anchors for Visual Object Detection", 2019, arXiv:1909.02466.
Parameter names and losses: mmdet ``dense_heads/free_anchor_retina_head.py`` (Apache-2.0).
What to look at: a bag's probability is a mean whose weights follow the probabilities themselves, and the gradient
flows through both.

Mirror notes:
- The same formulas in both panels; gradients are cut with ``detach`` here, with ``stop_gradient`` in TensorFlow.
"""

import torch
from torch import nn

from torch_impl.boxes.coders import DeltaCoder
from torch_impl.boxes.iou import pairwise_iou
from torch_impl.detection.retinanet import (
    LEVELS,
    MMDetRetinaNet,
    RetinaNetPostProcess,
    retinanet_r50_fpn_mmdet,
    retinanet_r101_fpn_mmdet,
)
from torch_impl.layers.rows import take_rows
from torch_impl.layers.top_k import top_k
from torch_impl.losses.box import smooth_l1_loss

__all__ = ["FreeAnchorCriterion", "FreeAnchorPostProcess", "freeanchor_r50_fpn", "freeanchor_r101_fpn"]

STDS = (0.1, 0.1, 0.2, 0.2)  # of the coder
IOU_EPS = 1e-6
EPS = 1e-12


class FreeAnchorCriterion(nn.Module):
    """Loss of every object's bag probability, and of all anchors being background where no object claims them.

    Args:
        bag: anchors of an object's bag, those that overlap it most.
        threshold: overlap of a prediction with an object from which on it gradually stops being background.
        alpha: weight of the objects in the loss.
        gamma: power of the background's probability.
        box_weight, beta: of the smooth L1 loss, whose negative exponential is a box's probability.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64,
        ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"positive_bag_loss"``, ``"negative_bag_loss"``, ``"total"``.
    """

    def __init__(
        self,
        bag: int = 50,
        threshold: float = 0.6,
        alpha: float = 0.5,
        gamma: float = 2.0,
        box_weight: float = 0.75,
        beta: float = 0.11,
    ):
        super().__init__()
        self.bag, self.threshold, self.alpha, self.gamma = bag, threshold, alpha, gamma
        self.box_weight, self.beta, self.coder = box_weight, beta, DeltaCoder(STDS, "both")

    def forward(self, outputs, targets):
        probability, deltas = torch.sigmoid(outputs["cls_logits"]), outputs["bbox_regression"]
        anchors = torch.cat([outputs[f"anchors_{level}"] for level in LEVELS])  # (A, 4)
        boxes, labels = targets["boxes"].to(deltas.dtype), targets["labels"]
        valid = targets["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        slots, size = boxes.shape[1], min(self.bag, len(anchors))
        boxes = torch.where(valid[..., None], boxes, anchors[0])  # padding gets a box with an area: finite, and masked
        classes = torch.arange(probability.shape[-1], device=labels.device)
        one_hot = (labels[..., None] == classes).to(deltas.dtype)  # (N, M, K)

        _, index = top_k(pairwise_iou(boxes, anchors, IOU_EPS), size)  # (N, M, bag)
        rows = index.flatten(1)
        chosen = take_rows(probability, rows).reshape(-1, slots, size, probability.shape[-1])
        of_class = (chosen * one_hot[:, :, None]).sum(-1)
        wanted = self.coder.encode(boxes[:, :, None].expand(-1, -1, size, -1), anchors[index])
        found = take_rows(deltas, rows).reshape(-1, slots, size, 4)
        both = of_class * torch.exp(-self.box_weight * smooth_l1_loss(found, wanted, self.beta))
        weight = 1 / torch.clamp(1 - both, min=EPS)
        together = (weight / weight.sum(-1, keepdim=True) * both).sum(-1)  # (N, M)
        count = valid.to(deltas.dtype).sum().clamp(min=1.0)
        losses = torch.where(valid, -torch.log(torch.where(valid, together, 1.0)), 0.0)
        positive = self.alpha * losses.sum() / count

        predicted = self.coder.decode(deltas, anchors).detach()  # mirror: gradients are cut
        iou = pairwise_iou(boxes, predicted, IOU_EPS)  # (N, M, A)
        most = torch.clamp(iou.amax(-1, keepdim=True), min=self.threshold + EPS)
        claim = torch.clamp((iou - self.threshold) / (most - self.threshold), 0.0, 1.0)
        claim = torch.where(valid[..., None], claim, 0.0)
        claimed = torch.zeros_like(probability)
        for i in range(slots):  # one slot at a time: all of them at once would be M times as large as the logits
            claimed = torch.maximum(claimed, claim[:, i, :, None] * one_hot[:, i, None])
        wrong = torch.clamp(probability * (1 - claimed), EPS, 1 - EPS)
        negative = (wrong**self.gamma * -torch.log(1 - wrong)).sum()
        negative = (1 - self.alpha) * negative / (count * self.bag)
        return {"positive_bag_loss": positive, "negative_bag_loss": negative, "total": positive + negative}


class FreeAnchorPostProcess(RetinaNetPostProcess):
    """RetinaNet's results as in mmdet, with the coder of the losses.

    Args:
        score_threshold, candidates, iou_threshold, detections: see :class:`RetinaNetPostProcess`.

    Inputs and returns: as there.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        iou_threshold: float = 0.5,
        detections: int = 100,
    ):
        super().__init__(score_threshold, candidates, iou_threshold, detections, "both", True)
        self.coder = DeltaCoder(STDS, "both")


def freeanchor_r50_fpn(**options) -> MMDetRetinaNet:
    return retinanet_r50_fpn_mmdet(**options)


def freeanchor_r101_fpn(**options) -> MMDetRetinaNet:
    return retinanet_r101_fpn_mmdet(**options)
