"""The results of a detector, gathered from its candidates."""

import torch

from torch_impl.layers.rows import take_rows

__all__ = ["results"]


def results(boxes, scores, labels, index, valid) -> dict:
    """Gather the candidates that suppression kept.

    Args:
        boxes, scores, labels: of the candidates, (N, B, 4) xyxy, (N, B) and (N, B).
        index: (N, D) int64, the candidates that are kept.
        valid: (N, D) bool, which of these are results.

    Returns:
        dict: ``"boxes"`` (N, D, 4), ``"scores"``, ``"labels"`` and ``"valid"`` (N, D); where ``"valid"`` is False, the
        others are 0.
    """
    return {
        "boxes": torch.where(valid[..., None], take_rows(boxes, index), 0.0),
        "scores": torch.where(valid, take_rows(scores, index), 0.0),
        "labels": torch.where(valid, take_rows(labels, index), 0),
        "valid": valid,
    }
