"""Cross-correlation of two feature maps: one slides over the other like the kernel of a convolution.

Written as a sum over the kernel's cells in both panels: a convolution whose kernel is computed for every image of the
batch does not export with a dynamic batch.

Mirror notes:
- NCHW here, NHWC in TensorFlow; a kernel of several results has them after the batch here, last there.
"""

import torch

from .resize import map_size

__all__ = ["cross_correlation", "depthwise_cross_correlation"]


def _shifts(x, kernel):
    """For every cell of the kernel: its index, and the values under it at every position of the kernel."""
    height, width = (a - b + 1 for a, b in zip(map_size(x), kernel.shape[-2:], strict=True))
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            yield (i, j), x[:, :, i : i + height, j : j + width]


def depthwise_cross_correlation(x, kernel):
    """Cross-correlation of every channel separately.

    Args:
        x: (N, C, H, W).
        kernel: (N, C, h, w), no larger than x.

    Returns:
        (N, C, H - h + 1, W - w + 1).
    """
    return sum(part * kernel[:, :, i : i + 1, j : j + 1] for (i, j), part in _shifts(x, kernel))  # mirror: NCHW


def cross_correlation(x, kernel):
    """Cross-correlation summed over the channels, with O results.

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
