"""Cross-correlation of two feature maps: one is laid over the other at every place, as a convolution's kernel is.

Written as a sum over the kernel's cells in both panels: a convolution with a computed kernel, another one for every
image of the batch, does not export with a batch that is open.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a kernel of several results has them after the batch here, last there.
"""

import torch

from .resize import map_size

__all__ = ["cross_correlation", "depthwise_cross_correlation"]


def _shifts(x, kernel):
    """For every cell of the kernel: its place, and what lies under it wherever the kernel is laid."""
    height, width = (a - b + 1 for a, b in zip(map_size(x), kernel.shape[-2:], strict=True))
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            yield (i, j), x[:, :, i : i + height, j : j + width]


def depthwise_cross_correlation(x, kernel):
    """Channel by channel.

    Args:
        x: (N, C, H, W).
        kernel: (N, C, h, w), no larger than x.

    Returns:
        (N, C, H - h + 1, W - w + 1).
    """
    return sum(part * kernel[:, :, i : i + 1, j : j + 1] for (i, j), part in _shifts(x, kernel))  # mirror: NCHW


def cross_correlation(x, kernel):
    """All channels together, O results.

    Args:
        x: (N, C, H, W).
        kernel: (N, O, C, h, w), no larger than x.

    Returns:
        (N, O, H - h + 1, W - w + 1).
    """
    shifts = _shifts(x, kernel)
    found = sum(torch.matmul(kernel[..., i, j], part.flatten(2)) for (i, j), part in shifts)  # (N, O, H' W')
    height, width = (a - b + 1 for a, b in zip(map_size(x), kernel.shape[-2:], strict=True))
    return found.unflatten(2, (height, width))
