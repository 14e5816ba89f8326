"""The grid of square regions of R-MAC: at level l they are about 2 / (l + 1) of the shorter side and overlap by 40 %.

"Particular object retrieval with integral max-pooling of CNN activations", 2015, arXiv:1511.05879. Numbers:
filipradenovic/cnnimageretrieval-pytorch ``cirtorch/layers/functional.py`` (MIT), rounding included.
"""

import numpy as np

__all__ = ["regions"]

OVERLAP = 0.4
STEPS = np.arange(2, 8)  # how many regions fit the longer side


def _starts(size: int, side: int, count: int) -> list[int]:
    """Starts of ``count`` regions along an axis."""
    half = side // 2 - 1
    step = np.float32((size - side) / (count - 1) if count > 1 else 0)
    return [int(np.floor(half + np.float32(i) * step)) - half for i in range(count)]


def regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """Top, left and side of every region, level by level, row by row; without the whole map."""
    short = min(height, width)
    step = (max(height, width) - short) / (STEPS - 1)
    best = int(np.abs((short**2 - short * step) / short**2 - OVERLAP).argmin()) + 1
    more_rows, more_columns = best * (height > width), best * (width > height)
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side:
            rows, columns = _starts(height, side, level + more_rows), _starts(width, side, level + more_columns)
            found += [(row, column, side) for row in rows for column in columns]
    return found
