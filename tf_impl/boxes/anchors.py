"""Anchors: boxes of a few shapes around every cell of a feature map.

Mirror notes:
- NumPy in both panels: the sizes of the maps are static, so the anchors are constants.
"""

import numpy as np

__all__ = ["cell_anchors", "grid_anchors"]


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...], rounded: bool = False) -> np.ndarray:
    """The anchors of one cell, around the origin.

    Args:
        sizes: square roots of the anchors' areas, in pixels.
        ratios: height / width.
        rounded: to whole pixels, halves to even (torchvision; mmdet does not round).

    Returns:
        (R * S, 4) float64, xyxy; all sizes of the first ratio, then those of the second, ...
    """
    heights = np.sqrt(np.asarray(ratios, np.float64))[:, None] * np.asarray(sizes, np.float64)
    widths = np.asarray(sizes, np.float64) / np.sqrt(np.asarray(ratios, np.float64))[:, None]
    anchors = np.stack([-widths, -heights, widths, heights], -1).reshape(-1, 4) / 2
    return np.round(anchors) if rounded else anchors


def grid_anchors(cell: np.ndarray, size: tuple[int, int], stride: tuple[int, int], offset: float = 0.0) -> np.ndarray:
    """The anchors of a feature map; its size is static, so they are constants of the graph.

    Args:
        cell: (A, 4) anchors of one cell.
        size: (H, W) of the map.
        stride: pixels from cell to cell, (vertical, horizontal).
        offset: where the first cell's centre is, in cells; both references have 0, the corner of the cell.

    Returns:
        (H * W * A, 4) float64, xyxy in pixels: row by row, all anchors of a cell together.
    """
    y, x = ((np.arange(n) + offset) * s for n, s in zip(size, stride))
    y, x = np.meshgrid(y, x, indexing="ij")  # mirror: NumPy in both
    return (np.stack([x, y, x, y], -1).reshape(-1, 1, 4) + cell).reshape(-1, 4)
