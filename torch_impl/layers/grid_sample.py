"""Sampling a feature map at given positions; one ``GridSample`` node in ONNX.

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow; the grid is the same in both.
- PyTorch has ``F.grid_sample``; TensorFlow gathers, and follows its rules for the gradient at the borders.
"""

import torch.nn.functional as F

from .native import exporting, onnx_node

__all__ = ["grid_sample"]


def grid_sample(x, grid, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False):
    """Value of ``x`` at every position of ``grid``.

    Args:
        x: (N, C, H, W); all but N are static.
        grid: (N, h, w, 2), for each output pixel the horizontal, then the vertical coordinate in [-1, 1].
        mode: ``"bilinear"`` or ``"nearest"`` (halves round to even; no gradient for the grid).
        padding_mode: what lies outside: ``"zeros"``, ``"border"`` (the nearest border pixel) or ``"reflection"``.
        align_corners: -1 and 1 are the centres of the first and last pixel; otherwise their outer edges.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: if ``mode`` or ``padding_mode`` is unknown.
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode must be 'zeros', 'border' or 'reflection', got {padding_mode!r}")
    if exporting():
        attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": int(align_corners)}
        # mirror: grid is the same
        return onnx_node("GridSample", [x, grid], attributes, x.dtype, [*x.shape[:2], *grid.shape[1:3]])
    # mirror: F.grid_sample
    return F.grid_sample(x, grid, mode=mode, padding_mode=padding_mode, align_corners=align_corners)
