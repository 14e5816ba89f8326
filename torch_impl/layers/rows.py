"""Rows of a batch: gathered by an index per sample, or made from the cells or anchors of a map.

Mirror notes:
- PyTorch gathers by an index of the result's shape, TensorFlow with ``tf.gather(batch_dims=1)``.
- A map becomes rows after a transposition in PyTorch.
"""

import torch

__all__ = ["anchor_rows", "map_rows", "take_rows"]


def take_rows(values, index):
    """Rows of a batch by index.  values: (N, M, ...), index: (N, A), negative for the first row -> (N, A, ...)."""
    index = torch.clamp(index, min=0)
    if values.dim() > 2:  # mirror: by an index of the result's shape
        index = index[(..., *[None] * (values.dim() - 2))].expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def map_rows(x):
    """Cells of a map as rows, row by row of the map.  (N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)  # mirror: transposition


def anchor_rows(x, channels: int):
    """Anchors of a map as rows.  (N, A * channels, H, W), the anchor outermost -> (N, H * W * A, channels)."""
    n, _, h, w = x.shape
    return x.reshape(n, -1, channels, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, channels)  # mirror: transposition
