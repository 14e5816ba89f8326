"""Losses of the overlap of what is found with what is there: Dice, and the convex extension of the Jaccard index.

"V-Net", 2016, arXiv:1606.04797; "The Lovász-Softmax loss", 2018, arXiv:1705.08790.
Terms and weights: mmsegmentation ``losses/{dice,lovasz}_loss.py`` (Apache-2.0).

Mirror notes:
- The classes are axis 1 in PyTorch, the last axis in TensorFlow.
- TensorFlow's stable sort has an ONNX form, PyTorch's has none: it is stable outside of the export.
"""

import torch
import torch.nn.functional as F

from torch_impl.layers.native import exporting
from torch_impl.layers.resize import resize_bilinear
from torch_impl.losses.dice import squared_dice
from torch_impl.losses.segmentation import SegmentationCriterion

__all__ = ["OverlapCriterion", "class_dice", "lovasz_softmax"]


def one_hot(logits, labels, ignore_index: int):
    """(N, K, H, W) bool, where a pixel is of a class; nowhere for ignored ones."""
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    return (labels[:, None] == classes) & (labels != ignore_index)[:, None]  # mirror: axis 1


def class_dice(logits, labels, ignore_index: int = 255):
    """1 - the overlap of all classes of an image, each with a probability of its own; the mean of the images.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) int.
        ignore_index: label of pixels that are of no class; the reference counts what is found there.

    Returns:
        Scalar.
    """
    wanted = one_hot(logits, labels, ignore_index).to(logits.dtype)
    return squared_dice(torch.sigmoid(logits).flatten(1), wanted.flatten(1)).mean()


def lovasz_softmax(logits, labels, ignore_index: int = 255, classes: str = "present", per_image: bool = False):
    """1 - the Jaccard index of each class, extended to probabilities (algorithm 1); the mean of the classes.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W) int, 0-based class indices.
        ignore_index: label of pixels that do not count.
        classes: "present", of which there is a pixel, or "all"; without any the loss is 0.
        per_image: the mean of the images' losses, otherwise the batch is one image.

    Returns:
        Scalar.

    Raises:
        ValueError: for other ``classes``.
    """
    if classes not in ("present", "all"):
        raise ValueError(f"classes={classes!r} must be 'present' or 'all'")
    count = logits.shape[1]
    size = (-1, logits.shape[2] * logits.shape[3]) if per_image else (1, -1)
    wanted = one_hot(logits, labels, ignore_index)
    probabilities, wanted = (
        x.movedim(1, -1).reshape(*size, count).transpose(1, 2) for x in (logits.softmax(1), wanted)
    )
    valid = (labels != ignore_index).reshape(size)[:, None]
    errors = torch.where(wanted, 1 - probabilities, probabilities)  # (N or 1, K, P)
    errors = torch.where(valid, errors, -1.0)  # those that do not count come last
    stable = {} if exporting() else {"stable": True}  # mirror: stable sort
    order = torch.argsort(errors.detach(), descending=True, **stable)
    errors = errors.gather(-1, order)
    wanted = wanted.to(logits.dtype).gather(-1, order)
    whole = wanted.sum(-1, keepdim=True)
    left, union = whole - wanted.cumsum(-1), whole + (1 - wanted).cumsum(-1)
    jaccard = 1 - left / union  # if the pixels up to this one are wrong
    steps = jaccard - F.pad(jaccard[..., :-1], (1, 0))
    losses = (torch.where(errors < 0, 0.0, errors) * steps).sum(-1)  # (N or 1, K)
    counted = ((whole[..., 0] > 0) | (classes == "all")).to(logits.dtype)
    number = counted.sum(-1)
    number = torch.where(number > 0, number, 1.0)
    return ((losses * counted).sum(-1) / number).mean()


class OverlapCriterion(SegmentationCriterion):
    """Cross-entropies, and the overlap of the map ``"logits"`` with the labels.

    Args:
        dice_weight: of ``"decode.loss_dice"``, see :func:`class_dice`; 3 is mmsegmentation's for retinal vessels.
        lovasz_weight: of ``"decode.loss_lovasz"``, see :func:`lovasz_softmax`.
        per_image: see :func:`lovasz_softmax`.
        options: of :class:`SegmentationCriterion`.

    Inputs, Returns: as of :class:`SegmentationCriterion`; terms of weight 0 are left out.
    """

    def __init__(self, dice_weight: float = 3.0, lovasz_weight: float = 0.0, per_image: bool = False, **options):
        super().__init__(**options)
        self.dice_weight, self.lovasz_weight, self.per_image = dice_weight, lovasz_weight, per_image

    def forward(self, outputs, targets):
        labels, losses = targets["labels"], super().forward(outputs, targets)
        del losses["total"]
        logits = resize_bilinear(outputs["logits"], tuple(labels.shape[1:]), self.align_corners)
        if self.dice_weight:
            losses["decode.loss_dice"] = self.dice_weight * class_dice(logits, labels, self.ignore_index)
        if self.lovasz_weight:
            loss = lovasz_softmax(logits, labels, self.ignore_index, per_image=self.per_image)
            losses["decode.loss_lovasz"] = self.lovasz_weight * loss
        return {**losses, "total": sum(losses.values())}
