"""Pixel shuffle: channels become pixels.

Mirror notes:
- PyTorch ships it; TensorFlow's ``depth_to_space`` has another order of channels.
"""

import torch.nn.functional as F
from torch.nn import PixelShuffle

__all__ = ["PixelShuffle", "pixel_shuffle"]


def pixel_shuffle(x, factor: int):
    """Channel c r^2 + i r + j of pixel (h, w) becomes channel c of pixel (h r + i, w r + j).

    Args:
        x: (N, C r^2, H, W).
        factor: r.

    Returns:
        (N, C, H r, W r)

    Source: arXiv:1609.05158, equation 4.
    """
    return F.pixel_shuffle(x, factor)  # mirror: another order of channels
