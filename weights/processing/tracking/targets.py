"""Training targets of the trackers' networks."""

import numpy as np

__all__ = ["response_labels"]


def response_labels(height: int, width: int, r_pos: float = 2.0, r_neg: float = 0.0) -> np.ndarray:
    """Which cells of a response are the object, around its middle.

    Args:
        height, width: of the response.
        r_pos: cells within this distance, |dx| + |dy|, are the object.
        r_neg: cells beyond it and within this one are ignored.

    Returns:
        (height, width): 1 the object, 0.5 ignored, 0 background.

    Source: huanglianghua/siamfc-pytorch ``siamfc/siamfc.py`` (MIT).
    """
    y, x = (np.abs(np.arange(n) - (n - 1) / 2) for n in (height, width))
    distance = y[:, None] + x
    return np.where(distance <= r_pos, 1.0, np.where(distance < r_neg, 0.5, 0.0))
