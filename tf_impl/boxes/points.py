"""Points of feature maps, and boxes as distances from a point to the four sides.

Mirror notes:
- Points are constants, made by NumPy in both panels: the sizes of the maps are static.
"""

import numpy as np
import tensorflow as tf

__all__ = ["boxes_of_distances", "distances_to_sides", "grid_points"]


def grid_points(size: tuple[int, int], stride: int, offset: float = 0.5) -> np.ndarray:
    """The points of a feature map, row by row.

    Args:
        size: (H, W) of the map.
        stride: pixels from cell to cell.
        offset: where the first point is, in cells.

    Returns:
        (H * W, 2) float64, x and y in pixels.
    """
    y, x = np.meshgrid(*((np.arange(n) + offset) * stride for n in size), indexing="ij")  # mirror: NumPy
    return np.stack([x, y], -1).reshape(-1, 2)


def distances_to_sides(points, boxes_xyxy):
    """Distances to the left, top, right and bottom side; below 0 for a point outside.

    Args:
        points: (..., 2) x and y.
        boxes_xyxy: (..., 4), same unit, of a shape that broadcasts.

    Returns:
        (..., 4).
    """
    return tf.concat((points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points), -1)


def boxes_of_distances(points, distances):
    """The boxes that have the given distances, the inverse of :func:`distances_to_sides`.

    Args:
        points: (..., 2) x and y.
        distances: (..., 4) left, top, right, bottom.

    Returns:
        (..., 4) xyxy.
    """
    return tf.concat((points - distances[..., :2], points + distances[..., 2:]), -1)
