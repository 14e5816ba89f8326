"""Upsampling by an integer factor such that every ``factor``-th pixel keeps its value (AdelaiDet's, mmdet's).

Mirror notes:
- Maps are NCHW here, NHWC in TensorFlow; masks of instances are (N, D, H, W) in both.
"""

import numpy as np
import torch

__all__ = ["aligned_bilinear"]


def aligned_bilinear(x, factor: int, axes: tuple[int, int]):
    """Linear interpolation at (i - factor // 2) / factor; borders repeat.

    Args:
        x: maps or masks; the sizes of ``axes`` are static.
        factor: even.
        axes: those of height and width.

    Returns:
        The same, ``factor`` times as high and as wide.
    """
    for axis in axes:
        size = x.shape[axis]
        place = np.clip((np.arange(size * factor) - factor // 2) / factor, 0, size - 1)
        low = np.floor(place)
        index = torch.from_numpy(np.stack([low, np.minimum(low + 1, size - 1)])).to(x.device, torch.int64)
        share = torch.from_numpy(place - low).to(x).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = x.index_select(axis, index[0]) * (1 - share) + x.index_select(axis, index[1]) * share
    return x
