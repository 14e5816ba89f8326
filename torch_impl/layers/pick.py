"""Rows by index, another index for each sample.

Mirror notes:
- PyTorch picks rows by advanced indexing, TensorFlow with ``tf.gather(batch_dims=1)``.
"""

import torch

__all__ = ["pick"]


def pick(rows, index):
    """Rows by index per sample.  (N, A, ...), (N, B) int64 -> (N, B, ...)."""
    # mirror: advanced indexing
    return rows[torch.arange(index.shape[0], device=index.device)[:, None], index]
