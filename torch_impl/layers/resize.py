"""Nearest, bilinear and bicubic resizing of feature maps, by PyTorch's rules; one ``Resize`` node in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow.
- PyTorch has all of it in ``F.interpolate``. ``tf.image.resize`` rounds nearest coordinates differently, has another
  cubic kernel and returns float32: TensorFlow gathers rows and columns, or multiplies by two interpolation matrices.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .native import exporting, onnx_node

__all__ = ["map_size", "resize_bicubic", "resize_bilinear", "resize_nearest"]


def map_size(x) -> tuple[int, int]:
    """Height and width of (N, C, H, W)."""
    return tuple(x.shape[2:])


def resize_nearest(x, size: tuple[int, int]):
    """Nearest neighbour: output pixel i shows input pixel floor(i * in / out).

    Args:
        x: (N, C, H, W); H and W are static.
        size: (h, w) of the output.

    Returns:
        (N, C, h, w).
    """
    if exporting() and _runtimes_agree(x.shape[2], size[0]) and _runtimes_agree(x.shape[3], size[1]):
        return _onnx_resize(x, size, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    if exporting():
        rows, columns = (torch.from_numpy(_nearest_index(x.shape[2 + axis], size[axis])) for axis in (0, 1))
        return x.index_select(2, rows).index_select(3, columns)
    return F.interpolate(x, size=tuple(size), mode="nearest")  # mirror: rounds nearest coordinates


def resize_bilinear(x, size: tuple[int, int], align_corners: bool = False):
    """Linear interpolation between the two nearest pixels in each direction, without anti-aliasing.

    Args:
        x: (N, C, H, W); H and W are static.
        size: (h, w) of the output.
        align_corners: map corner centres onto corner centres (scale (in - 1) / (out - 1)); otherwise the image borders
            onto each other (scale in / out).

    Returns:
        (N, C, h, w).
    """
    if exporting():
        return _onnx_resize(x, size, mode="linear", coordinate_transformation_mode=_coordinates(align_corners))
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def resize_bicubic(x, size: tuple[int, int], align_corners: bool = False):
    """Cubic convolution (a = -0.75) over the four nearest pixels in each direction; borders repeat, no anti-aliasing.

    Args:
        x: (N, C, H, W); H and W are static.
        size: (h, w) of the output.
        align_corners: as in :func:`resize_bilinear`.

    Returns:
        (N, C, h, w).
    """
    if exporting():
        coordinates = _coordinates(align_corners)
        return _onnx_resize(x, size, mode="cubic", coordinate_transformation_mode=coordinates, cubic_coeff_a=-0.75)
    return F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=align_corners)  # mirror: cubic kernel


def _coordinates(align_corners):
    return "align_corners" if align_corners else "half_pixel"


def _onnx_resize(x, size, **attributes):
    # With ``axes``, the sizes of batch and channels need not be known (opset 18).
    sizes = torch.tensor(list(size))
    # mirror: NCHW
    return onnx_node("Resize", [x, None, None, sizes], {"axes": [2, 3], **attributes}, x.dtype, [*x.shape[:2], *size])


def _nearest_index(size_in, size_out):
    """(size_out,) int64, rounded as PyTorch does: the product with the ratio in single precision."""
    ratio = np.float32(size_in) / np.float32(size_out)
    index = np.floor(np.arange(size_out, dtype=np.float32) * ratio).astype(np.int64)
    return np.minimum(index, size_in - 1)


def _runtimes_agree(size_in, size_out):
    """Whether ONNX runtimes, which divide by the inverse ratio, round to the same pixels."""
    scale = np.float32(size_out) / np.float32(size_in)
    index = np.floor(np.arange(size_out, dtype=np.float32) / scale).astype(np.int64)
    return np.array_equal(np.minimum(index, size_in - 1), _nearest_index(size_in, size_out))
