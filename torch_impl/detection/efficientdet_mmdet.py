"""mmdet's EfficientDet: RetinaNet's anchors and matching, and pooling that pads with 0.

"EfficientDet: Scalable and Efficient Object Detection", 2019, arXiv:1911.09070.
Reference: mmdet ``projects/EfficientDet`` (Apache-2.0). The network's names are those of :class:`EfficientDet`.
What to look at: anchors have the ratios 1, 1/2 and 2, and their deltas RetinaNet's order; every anchor that ties for
the largest overlap with an object learns it.

Mirror notes:
- Lists are flattened and compared by the framework's own functions.
"""

import torch
from torch import nn

from torch_impl.boxes.anchors import cell_anchors, grid_anchors
from torch_impl.boxes.coders import DeltaCoder, clip_boxes
from torch_impl.detection._dense import LEVELS, STRIDES
from torch_impl.detection.efficientdet import EfficientDet, rows, tf_efficientdet_d0, tf_efficientdet_d3
from torch_impl.detection.retinanet import BASE_SIZE, OCTAVES, RetinaNetCriterion
from torch_impl.layers.resize import map_size
from torch_impl.layers.rows import take_rows
from torch_impl.layers.soft_nms import batched_soft_nms
from torch_impl.layers.top_k import top_k

__all__ = [
    "MMDetEfficientDetCriterion",
    "MMDetEfficientDetPostProcess",
    "efficientdet_effb0_bifpn",
    "efficientdet_effb3_bifpn",
]

RATIOS = (1.0, 0.5, 2.0)  # height / width


def retina_rows(outputs) -> dict:
    """Convert the maps of :class:`EfficientDet` for :class:`RetinaNetCriterion`, with the anchors of every level."""
    found = {"cls_logits": rows(outputs, "class"), "bbox_regression": rows(outputs, "box")}
    for level, stride in zip(LEVELS, STRIDES):
        cell = cell_anchors([BASE_SIZE * stride * octave for octave in OCTAVES], RATIOS)
        anchors = grid_anchors(cell, map_size(outputs[f"class_{level}"]), (stride, stride), 0.5)
        found[f"anchors_{level}"] = torch.from_numpy(anchors).to(found["cls_logits"])
    return found


class MMDetEfficientDetCriterion(RetinaNetCriterion):
    """Focal loss of the classes, Huber loss of the boxes, divided by the total number of matched anchors.

    Args:
        alpha, gamma: of the focal loss.
        delta: of the Huber loss.
        box_weight: factor of the boxes' loss.

    Inputs: ``outputs`` of the model; ``targets``: ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"`` (N, M) int64 from
        0, ``"valid"`` (N, M) bool, False for padding. Boxes without area take no part.
    Returns: dict of scalars: ``"loss_cls"``, ``"loss_bbox"``, ``"total"``.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 1.5, delta: float = 0.1, box_weight: float = 50.0):
        super().__init__(
            "smooth_l1",
            delta,
            alpha,
            gamma,
            "batch",
            negative=0.5,
            low_quality="forced",
            clamp="both",
            keys=("loss_cls", "loss_bbox"),
        )
        self.box_weight = box_weight

    def forward(self, outputs, targets):
        return super().forward(retina_rows(outputs), targets)

    def _box_losses(self, deltas, wanted, anchors):
        # Huber's loss is the smooth L1 loss times beta; the reference divides by the four values of each box
        return self.box_weight * self.beta / 4 * super()._box_losses(deltas, wanted, anchors)


class MMDetEfficientDetPostProcess(nn.Module):
    """The best boxes of every image: best pairs of anchor and class per level, decoding, soft suppression by class.

    Args:
        score_threshold: pairs of at most this probability are dropped.
        candidates: pairs kept per level.
        detections: results per image, D.
        sigma, min_score: see :func:`batched_soft_nms`.

    Inputs: ``outputs`` of the model; ``input_size``: height and width of the images, a pair or (N, 2) integer for
        images that were padded on the right and at the bottom.
    Returns: dict: ``"boxes"`` (N, D, 4) xyxy in pixels, ``"scores"`` (N, D) descending, lowered ones, ``"labels"``
        (N, D) int64 from 0, ``"valid"`` (N, D) bool; where False, the others are 0.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        detections: int = 100,
        sigma: float = 0.5,
        min_score: float = 0.001,
    ):
        super().__init__()
        self.score_threshold, self.candidates, self.detections = score_threshold, candidates, detections
        self.sigma, self.min_score, self.coder = sigma, min_score, DeltaCoder(clamp="both")

    def forward(self, outputs, input_size):
        outputs = retina_rows(outputs)
        anchors, classes = [outputs[f"anchors_{level}"] for level in LEVELS], outputs["cls_logits"].shape[-1]
        found, start = [], 0
        for level in outputs["cls_logits"].split([of_level.shape[0] for of_level in anchors], 1):
            number = level.shape[1] * classes
            scores, pairs = top_k(torch.sigmoid(level.flatten(1)), min(self.candidates, number))
            found.append((scores, pairs + start))
            start += number
        scores, pairs = (torch.cat(parts, 1) for parts in zip(*found))
        index = torch.div(pairs, classes, rounding_mode="floor")
        labels = pairs - index * classes
        boxes = self.coder.decode(take_rows(outputs["bbox_regression"], index), torch.cat(anchors)[index])
        boxes = clip_boxes(boxes, torch.as_tensor(input_size, device=boxes.device))
        valid = (scores > self.score_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        options = {"sigma": self.sigma, "min_score": self.min_score}
        index, scores, valid = batched_soft_nms(boxes, scores, labels, valid, self.detections, **options)
        return {
            "boxes": torch.where(valid[..., None], take_rows(boxes, index), 0.0),
            "scores": scores,
            "labels": torch.where(valid, take_rows(labels, index), 0),
            "valid": valid,
        }


def efficientdet_effb0_bifpn(num_classes: int = 80, pad_mode: str = "zeros", **options) -> EfficientDet:
    return tf_efficientdet_d0(num_classes=num_classes, pad_mode=pad_mode, **options)


def efficientdet_effb3_bifpn(
    num_classes: int = 80, pad_mode: str = "zeros", drop_path: float = 0.3, **options
) -> EfficientDet:
    return tf_efficientdet_d3(num_classes=num_classes, pad_mode=pad_mode, drop_path=drop_path, **options)
