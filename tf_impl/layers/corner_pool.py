"""Corner pooling: every position takes the largest value in one direction from it.

"CornerNet: Detecting Objects as Paired Keypoints", 2018, arXiv:1808.01244, section 3.3. Source: princeton-vl/CornerNet
``models/py_utils/_cpools`` (BSD-3).

Mirror notes:
- NHWC here, NCHW in PyTorch.
- ``where`` states which side a tie takes, because the frameworks' maxima share the gradient differently.
"""

import tensorflow as tf

__all__ = ["corner_pool"]

TOWARDS = {"top": (1, True), "bottom": (1, False), "left": (2, True), "right": (2, False)}  # mirror: NHWC


def corner_pool(x, direction: str):
    """The running maximum of rows or columns, by maxima over 2, 4, 8, ... positions.

    Args:
        x: (N, H, W, C).
        direction: "top", over a place and all below it; "bottom", above it; "left", to the right of it; "right", to
            the left of it.

    Returns:
        (N, H, W, C).

    Raises:
        ValueError: if there is no such direction.
    """
    if direction not in TOWARDS:
        raise ValueError(f"direction={direction!r} must be one of {sorted(TOWARDS)}")
    axis, onward = TOWARDS[direction]
    size, step = x.shape[axis], 1
    while step < size:
        first, rest = tf.split(x, (size - step, step), axis)
        start, last = tf.split(x, (step, size - step), axis)
        rest = rest if onward else start
        larger = tf.where(first >= last, first, last)  # mirror: which side a tie
        x = tf.concat((larger, rest) if onward else (rest, larger), axis)
        step *= 2
    return x
