"""Default boxes: boxes of a few shapes around every cell of several maps, sizes relative to the image.

Mirror notes:
- NumPy in both panels: the sizes of the maps are static, so the boxes are constants.
"""

import numpy as np

__all__ = ["default_boxes"]


def default_boxes(
    image_size: tuple[int, int],
    map_sizes: list[tuple[int, int]],
    scales: tuple[float, ...],
    ratios: tuple[tuple[float, ...], ...],
    steps: tuple[float, ...] | None = None,
    clip: bool = True,
) -> np.ndarray:
    """The default boxes of all maps (arXiv:1512.02325, section 2.2).

    Args:
        image_size: (H, W) in pixels.
        map_sizes: (h, w) of each of L maps.
        scales: L + 1 sizes relative to the image; a map also has a square between its scale and the next.
        ratios: width / height of the other boxes of every map; each comes with its inverse.
        steps: pixels from cell to cell of every map; None: the image's size divided by the map's.
        clip: whether widths and heights are limited to the image's.

    Returns:
        (sum of h * w * A, 4) float64, xyxy in pixels: map by map, row by row, all boxes of a cell together: the square
        of the map's scale, the larger square, then every ratio and its inverse. They are computed in single precision,
        as the references do: its rounding decides which of the boxes around a small object overlaps it most.

    Source: torchvision ``detection/anchor_utils.DefaultBoxGenerator``; mmdet ``SSDAnchorGenerator`` does not clip.
    """
    size, single = np.array(image_size[::-1], np.float32), np.float32
    found = []
    for i, (rows, columns) in enumerate(map_sizes):
        between = np.sqrt(scales[i] * scales[i + 1])
        shapes = [(scales[i], scales[i]), (between, between)]
        for ratio in ratios[i]:
            long, short = scales[i] * np.sqrt(ratio), scales[i] / np.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        half = single(0.5) * (np.clip(shapes, 0, 1) if clip else np.array(shapes)).astype(single)  # (A, 2)
        # mirror: NumPy in both
        cells = (rows, columns) if steps is None else (image_size[0] / steps[i], image_size[1] / steps[i])
        y, x = ((np.arange(n, dtype=single) + single(0.5)) / single(m) for n, m in zip((rows, columns), cells))
        y, x = np.meshgrid(y, x, indexing="ij")
        centres = np.stack([x, y], -1).reshape(-1, 1, 2)
        found.append(np.concatenate([(centres - half) * size, (centres + half) * size], -1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float64)
