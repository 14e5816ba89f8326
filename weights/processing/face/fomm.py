"""Around the networks of the First Order Motion Model: transferring the motion of one image to another.

Numbers: AliaksandrSiarohin/first-order-model ``animate.py`` (MIT).
"""

from collections.abc import Mapping

import numpy as np
from scipy.spatial import ConvexHull, QhullError

__all__ = ["movement_scale", "relative_motion"]

Points = Mapping[str, np.ndarray]


def area(points: np.ndarray) -> float:
    """Area of the convex hull of points (K, 2); 0 if they are on a line."""
    try:
        return float(ConvexHull(points).volume)
    except QhullError:
        return 0.0


def movement_scale(source: Points, first: Points) -> float:
    """How much larger the object in the source is than that in the first driving frame; 1 if unknown.

    Args:
        source, first: ``"value"`` (1, K, 2).
    """
    areas = [area(points["value"][0].astype(np.float64)) for points in (source, first)]
    return float(np.sqrt(areas[0] / areas[1])) if min(areas) > 0 else 1.0


def relative_motion(source: Points, driving: Points, first: Points, scale: float) -> dict[str, np.ndarray]:
    """Points for the source that move as the driving ones have moved since the first frame.

    Args:
        source, driving, first: ``"value"`` (1, K, 2) and ``"jacobian"`` (1, K, 2, 2).
        scale: of the movements.

    Returns:
        The same, float32.
    """
    value, jacobian = (
        [points[key].astype(np.float64) for points in (source, driving, first)] for key in ("value", "jacobian")
    )
    change = jacobian[1] @ np.linalg.inv(jacobian[2])
    found = {"value": (value[1] - value[2]) * scale + value[0], "jacobian": change @ jacobian[0]}
    return {name: array.astype(np.float32) for name, array in found.items()}
