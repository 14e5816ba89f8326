"""Objects as peaks of heat maps: the radius of a peak, the target maps of a batch, and the peaks of a map.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244, section 3.2; "Objects as Points", 2019,
arXiv:1904.07850.

Mirror notes:
- NHWC here, NCHW in PyTorch.
"""

import tensorflow as tf

from tf_impl.layers.pooling import max_pool2d
from tf_impl.layers.top_k import top_k

__all__ = ["gaussian_radius", "heat_maps", "peaks"]


def gaussian_radius(height, width, overlap: float, corrected: bool = True):
    """How far the corners of a box may move until it overlaps itself by less than ``overlap``.

    Args:
        height, width: of boxes, any shape.
        overlap: IoU, between 0 and 1.
        corrected: the roots of the three quadratic equations; otherwise what the first implementations computed, their
            sum with the root in place of the difference, divided by 2 in place of 2a.

    Returns:
        The same shape.

    Source: princeton-vl/CornerNet ``sample/utils.py`` (BSD-3); xingyizhou/CenterNet ``utils/image.py`` (MIT).
    """
    total, area = height + width, height * width
    equations = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, area * (1 - overlap)),
        (4 * overlap, -2 * overlap * total, area * (overlap - 1)),
    )
    roots = []
    for i, (a, b, c) in enumerate(equations):
        root = tf.sqrt(tf.maximum(b * b - 4 * a * c, 0.0))
        if not corrected:
            roots.append((b + root) / 2)
        else:
            roots.append((b + root if i == 2 else b - root) / (2 * a))
    return tf.minimum(tf.minimum(roots[0], roots[1]), roots[2])


def heat_maps(centres, radius, labels, valid, classes: int, size: tuple[int, int]):
    """A peak of height 1 for every object in the map of its class; where peaks overlap, the larger value counts.

    Args:
        centres: (N, M, 2) integer-valued column and row.
        radius: (N, M) integer-valued; beyond it the peak is 0. Its deviation is a sixth of the diameter.
        labels: (N, M) int64.
        valid: (N, M) bool.
        classes: K.
        size: height and width of the map.

    Returns:
        (N, H, W, K).
    """
    height, width = size
    rows, columns = tf.range(height, dtype=centres.dtype), tf.range(width, dtype=centres.dtype)
    across = columns - centres[..., 0, None]  # (N, M, W)
    down = rows - centres[..., 1, None]
    reach, sigma = radius[..., None], (2 * radius + 1)[..., None] / 6
    zero = tf.zeros([], centres.dtype)
    lines = [tf.where(tf.abs(x) <= reach, tf.exp(-tf.square(x) / (2 * tf.square(sigma))), zero) for x in (down, across)]
    peak = lines[0][..., :, None] * lines[1][..., None, :]  # (N, M, H, W)
    mine = (labels[..., None] == tf.range(classes, dtype=labels.dtype)) & valid[..., None]  # (N, M, K)
    return tf.reduce_max(peak[..., None] * tf.cast(mine, peak.dtype)[:, :, None, None], 1)


def peaks(heat, kernel_size: int, k: int):
    """The highest local maxima.

    Args:
        heat: (N, H, W, K) in [0, 1].
        kernel_size: side of the window, odd.
        k: how many per image; among equals the lower class, row, column comes first.

    Returns:
        scores: (N, k) descending, 0 for entries that are no peaks.
        labels, rows, columns: (N, k) int64.
    """
    _, height, width, classes = heat.shape
    highest = max_pool2d(heat, kernel_size, 1, kernel_size // 2)
    kept = tf.where(highest == heat, heat, tf.zeros([], heat.dtype))
    scores, index = top_k(tf.reshape(tf.transpose(kept, (0, 3, 1, 2)), (-1, classes * height * width)), k)
    labels = index // (height * width)
    cell = index - labels * (height * width)
    rows = cell // width
    return scores, labels, rows, cell - rows * width
