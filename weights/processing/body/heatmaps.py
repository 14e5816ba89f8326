"""Joints as heat maps, the targets of pose networks; and how often predictions are right.

Numbers: princeton-vl/pytorch_stacked_hourglass ``data/MPII/dp.py`` (BSD-3).
"""

import numpy as np

__all__ = ["joint_heatmaps", "pck"]


def joint_heatmaps(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """A Gaussian around every joint; several persons share a map, where the larger value counts.

    Args:
        joints: (N, P, J, 2), x and y in cells of the map; joints with x <= 0 or outside are missing.
        height, width: of the maps; a Gaussian's deviation is height / 64, and it ends 3 deviations and a cell from its
            top.

    Returns:
        (N, J, height, width) in [0, 1].
    """
    sigma = height / 64
    cell = np.trunc(joints)  # the top is at a whole cell
    x, y = cell[..., 0, None, None], cell[..., 1, None, None]  # (N, P, J, 1, 1)
    inside = (joints[..., 0] > 0) & (cell[..., 0] < width) & (cell[..., 1] >= 0) & (cell[..., 1] < height)
    dy, dx = np.arange(height)[:, None] - y, np.arange(width) - x
    reach = 3 * sigma + 1
    near = (np.abs(dx) <= reach) & (np.abs(dy) <= reach) & inside[..., None, None]
    return np.where(near, np.exp(-(dx**2 + dy**2) / (2 * sigma**2)), 0.0).max(1)


def pck(found: np.ndarray, wanted: np.ndarray, size: np.ndarray, threshold: float = 0.5) -> float:
    """The share of joints whose error is below a fraction of the head's size (PCKh).

    Args:
        found, wanted: (N, J, 2), wanted is NaN where it is unknown.
        size: (N,) of the heads, in the same unit.
        threshold: that fraction.
    """
    known = ~np.isnan(wanted).any(-1)
    distance = np.linalg.norm(found - np.where(known[..., None], wanted, 0), axis=-1) / size[:, None]
    return float((distance[known] <= threshold).mean())
