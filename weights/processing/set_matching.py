"""Matching of a set-prediction detector's queries and objects: the cheapest assignment, found on the host."""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

__all__ = ["match_layers", "match_sets", "normalised_boxes"]


def normalised_boxes(boxes_xyxy: np.ndarray, image_size: np.ndarray) -> np.ndarray:
    """Boxes in pixels as centre and size relative to their image.

    Args:
        boxes_xyxy: (N, M, 4) in pixels.
        image_size: (N, 2), height and width.

    Returns:
        (N, M, 4) cxcywh, in [0, 1] for boxes inside the image.
    """
    scale = np.asarray(image_size, np.float64)[:, None, ::-1]
    first, last = boxes_xyxy[..., :2] / scale, boxes_xyxy[..., 2:] / scale
    return np.concatenate([(first + last) / 2, last - first], -1)


def match_sets(
    logits: np.ndarray,
    boxes_cxcywh: np.ndarray,
    labels: np.ndarray,
    objects_cxcywh: np.ndarray,
    valid: np.ndarray,
    class_weight: float = 1.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
) -> np.ndarray:
    """The assignment of least cost in every image: probability of the class, L1 and GIoU of the boxes.

    Args:
        logits: (N, Q, K + 1), the last class is "no object".
        boxes_cxcywh: (N, Q, 4).
        labels: (N, M) class indices.
        objects_cxcywh: (N, M, 4), in the unit of the boxes.
        valid: (N, M) bool, which slots hold objects; at most Q of an image.
        class_weight, l1_weight, giou_weight: of the three costs.

    Returns:
        (N, M) int64: the query of every slot, -1 where there is no object.

    Raises:
        ValueError: if an image has more objects than queries, or a cost is not finite.

    Source: arXiv:2005.12872, section 3.1; facebookresearch/detr ``models/matcher.py`` (Apache-2.0).
    """
    logits, boxes, objects = (np.asarray(x, np.float64) for x in (logits, boxes_cxcywh, objects_cxcywh))
    if (valid.sum(1) > logits.shape[1]).any():
        raise ValueError(
            f"valid: {int(valid.sum(1).max())} objects in an image are more than {logits.shape[1]} queries"
        )
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probability = shifted / shifted.sum(-1, keepdims=True)
    indices = np.full(valid.shape, -1, np.int64)
    for image, present in enumerate(valid):
        slots = np.flatnonzero(present)
        cost = -class_weight * probability[image][:, labels[image, slots]]
        cost += l1_weight * np.abs(boxes[image][:, None] - objects[image, slots]).sum(-1)
        cost -= giou_weight * _generalized_iou(boxes[image][:, None], objects[image, slots])
        if not np.isfinite(cost).all():
            raise ValueError(f"the costs of image {image} are not finite: a box or an object has no area")
        queries, found = linear_sum_assignment(cost)
        indices[image, slots[found]] = queries
    return indices


def match_layers(outputs: Mapping, targets: Mapping, **weights) -> np.ndarray:
    """The assignments of all layers of a decoder.

    Args:
        outputs: arrays ``"pred_logits"``, ``"pred_boxes"`` of the last layer, and those of the layers before it under
            the same names with ``"_0"``, ``"_1"``, ...
        targets: arrays ``"boxes"`` (N, M, 4) xyxy in pixels, ``"labels"``, ``"valid"`` (N, M), ``"image_size"`` (N, 2).
        weights: of :func:`match_sets`.

    Returns:
        (N, L, M) int64, as :func:`match_sets` returns them, the last layer last.
    """
    objects = normalised_boxes(np.asarray(targets["boxes"]), np.asarray(targets["image_size"]))
    before = sum(name.startswith("pred_logits_") for name in outputs)
    found = [
        match_sets(
            outputs[f"pred_logits{layer}"],
            outputs[f"pred_boxes{layer}"],
            np.asarray(targets["labels"]),
            objects,
            np.asarray(targets["valid"]),
            **weights,
        )
        for layer in [*(f"_{i}" for i in range(before)), ""]
    ]
    return np.stack(found, 1)


def _generalized_iou(boxes_cxcywh, others_cxcywh):
    """GIoU of boxes that broadcast.  (..., 4) -> (...)."""
    (first, last), (other_first, other_last) = (
        (x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2) for x in (boxes_cxcywh, others_cxcywh)
    )
    shared = np.clip(np.minimum(last, other_last) - np.maximum(first, other_first), 0, None).prod(-1)
    union = (last - first).prod(-1) + (other_last - other_first).prod(-1) - shared
    enclosing = (np.maximum(last, other_last) - np.minimum(first, other_first)).prod(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / union - (enclosing - union) / enclosing
