"""Max pooling that returns its indices, and its partial inverse; ``MaxPool`` and ``MaxUnpool`` nodes in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow. An index counts the pixels of one channel's plane, row by row, in both.
- TensorFlow counts channels too and cannot pad, so its indices are converted. ONNX counts images and channels, so both
  panels convert there.
"""

import torch
import torch.nn.functional as F

from .native import exporting, onnx_node

__all__ = ["max_pool2d_with_indices", "max_unpool2d"]


def max_pool2d_with_indices(
    x,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
):
    """Largest value of each window and its place; of equal values the first one in reading order.

    Args:
        x: (N, C, H, W); all but N are static.
        kernel_size, stride, padding: one number or (height, width); ``stride`` is ``kernel_size`` if None.

    Returns:
        values: (N, C, h, w).
        indices: (N, C, h, w) int64, row * W + column in the input plane.
    """
    kernel, stride, padding = _arguments(kernel_size, stride, padding)
    if exporting():
        batch, channels, height, width = x.shape
        size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip((height, width), kernel, stride, padding, strict=True)]
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        shape = [batch, channels, *size]
        values, indices = onnx_node("MaxPool", [x], attributes, [x.dtype, torch.int64], [shape, shape])
        return values, indices % (height * width)
    return F.max_pool2d(x, kernel, stride, padding, return_indices=True)  # mirror: index counts the pixels


def max_unpool2d(
    x,
    indices,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    output_size: tuple[int, int] | None = None,
):
    """Values put back where they were pooled from; zero elsewhere.

    Args:
        x, indices: (N, C, h, w), as of :func:`max_pool2d_with_indices`; all but N are static.
        kernel_size, stride, padding: those of the pooling.
        output_size: (H, W) of the pooled map; ``None`` for the smallest size that leads to (h, w).

    Returns:
        (N, C, H, W).
    """
    kernel, stride, padding = _arguments(kernel_size, stride, padding)
    batch, channels, *size = x.shape
    smallest = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    height, width = smallest if output_size is None else output_size
    if exporting():
        # mirror: indices are converted
        plane = torch.arange(batch)[:, None, None, None] * channels + torch.arange(channels)[:, None, None]
        attributes = {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}
        planes = onnx_node("Shape", [x], {"start": 0, "end": 2}, torch.int64, [2])
        inputs = [x, indices + plane * (height * width), torch.cat([planes, torch.tensor([height, width])])]
        return onnx_node("MaxUnpool", inputs, attributes, x.dtype, [batch, channels, height, width])
    return F.max_unpool2d(x, indices, kernel, stride, padding, (height, width))


def _arguments(kernel_size, stride, padding):
    stride = kernel_size if stride is None else stride
    return [(value, value) if isinstance(value, int) else tuple(value) for value in (kernel_size, stride, padding)]
