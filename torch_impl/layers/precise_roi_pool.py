"""Precise RoI pooling: the exact mean of the bilinear surface over every bin of a box.

"Acquisition of Localization Confidence for Accurate Object Detection", 2018, arXiv:1807.11590. Reference:
vacancy/PreciseRoIPooling (MIT). The integral of a bilinear surface is separable: two matrix products find it, with a
gradient for the features and for the boxes.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
"""

import torch

from .precision import single

__all__ = ["precise_roi_pool"]


def _integral(t):
    """Integral of the hat function of linear interpolation, from -1 to t."""
    t = t.clamp(-1, 1)
    return 0.5 + t - t * t.abs() / 2


def _weights(first, last, bins: int, size: int):
    """Weight of every pixel of a line in every bin, and the length of a bin.

    Args:
        first, last: (R, P) ends of the boxes, in pixels.

    Returns:
        (R, P, bins, size) and (R, P).
    """
    length = (last - first).clamp(min=0) / bins
    edges = first[..., None] + length[..., None] * torch.arange(bins + 1).to(first)
    reached = _integral(edges[..., None] - torch.arange(size).to(first))  # (R, P, bins + 1, size)
    return reached[:, :, 1:] - reached[:, :, :-1], length


def precise_roi_pool(features, boxes_xyxy, output_size: int, spatial_scale: float):
    """Means over the bins of boxes.

    Args:
        features: (R, C, H, W), 0 outside.
        boxes_xyxy: (R, P, 4), P boxes for each map, in units of pixels / ``spatial_scale``; pixel centres are at whole
            numbers.
        output_size: bins per box and direction, K.
        spatial_scale: factor from box coordinates to feature pixels.

    Returns:
        (R, P, C, K, K); 0 for a box without area.
    """
    height, width = features.shape[2:]
    x_first, y_first, x_last, y_last = (single(boxes_xyxy) * spatial_scale).unbind(-1)
    rows, tall = _weights(y_first, y_last, output_size, height)
    columns, wide = _weights(x_first, x_last, output_size, width)
    x = torch.matmul(rows[:, :, None], single(features)[:, None])  # (R, P, C, K, W)
    x = torch.matmul(x, columns[:, :, None].transpose(3, 4))  # mirror: NCHW
    area = (tall * wide)[:, :, None, None, None]
    return torch.where(area > 0, x / torch.where(area > 0, area, 1.0), 0.0).to(features.dtype)
