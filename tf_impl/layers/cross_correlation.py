"""Cross-correlation of two feature maps: one slides over the other like the kernel of a convolution.

Written as a sum over the kernel's cells in both panels: a convolution whose kernel is computed for every image of the
batch does not export with a dynamic batch.

Mirror notes:
- NHWC here, NCHW in PyTorch; a kernel of several results has them last here, after the batch there.
"""

import tensorflow as tf

from .resize import map_size

__all__ = ["cross_correlation", "depthwise_cross_correlation"]


def _shifts(x, kernel):
    """For every cell of the kernel: its index, and the values under it at every position of the kernel."""
    height, width = (a - b + 1 for a, b in zip(map_size(x), kernel.shape[1:3], strict=True))
    for i in range(kernel.shape[1]):
        for j in range(kernel.shape[2]):
            yield (i, j), x[:, i : i + height, j : j + width]


def depthwise_cross_correlation(x, kernel):
    """Cross-correlation of every channel separately.

    Args:
        x: (N, H, W, C).
        kernel: (N, h, w, C), no larger than x.

    Returns:
        (N, H - h + 1, W - w + 1, C).
    """
    return sum(part * kernel[:, i : i + 1, j : j + 1] for (i, j), part in _shifts(x, kernel))  # mirror: NHWC


def cross_correlation(x, kernel):
    """Cross-correlation summed over the channels, with O results.

    Args:
        x: (N, H, W, C).
        kernel: (N, h, w, C, O), no larger than x.

    Returns:
        (N, H - h + 1, W - w + 1, O).
    """
    return sum(tf.matmul(part, kernel[:, i : i + 1, j]) for (i, j), part in _shifts(x, kernel))
