"""Objects as Gaussians on a map, as in the centre-based trackers.

Numbers: xingyizhou/CenterTrack ``utils/image.py`` (MIT).
"""

import numpy as np

__all__ = ["draw_hill", "hill_radius"]


def hill_radius(height: float, width: float, overlap: float = 0.7) -> int:
    """How far a box's centre may move while the box keeps an overlap, by the formulas of the reference.

    NOTE: the reference takes the other root of its quadratic equations and divides it by 2, not by twice the leading
    coefficient.
    """
    total, area = height + width, height * width
    found = []
    for a, b, c in (
        (1, total, area * (1 - overlap) / (1 + overlap)),
        (4, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    ):
        found.append((b + np.sqrt(b * b - 4 * a * c)) / 2)
    return max(0, int(min(found)))


def draw_hill(heat: np.ndarray, centre: tuple[int, int], radius: int, height: float = 1.0) -> None:
    """Draw a Gaussian on a map (H, W) by the maximum; nothing is drawn outside.

    Args:
        heat: is changed.
        centre: x and y, cells.
        radius: where it ends; its deviation is a third of the radius and a half.
        height: of its top.
    """
    x, y = centre
    rows, columns = heat.shape
    top, bottom = max(y - radius, 0), min(y + radius + 1, rows)
    left, right = max(x - radius, 0), min(x + radius + 1, columns)
    if top >= bottom or left >= right:
        return
    sigma = (2 * radius + 1) / 6
    dy, dx = np.arange(top, bottom) - y, np.arange(left, right) - x
    hill = np.exp(-(dx**2 + dy[:, None] ** 2) / (2 * sigma**2))
    hill[hill < np.finfo(hill.dtype).eps] = 0
    part = heat[top:bottom, left:right]
    np.maximum(part, height * hill, out=part)
