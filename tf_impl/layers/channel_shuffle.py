"""Mixing of channel groups.

Mirror notes:
- Channels are axis 1 in PyTorch, the last axis in TensorFlow, which transposes the map to NCHW around the shuffle while
  exporting: these transposes cancel those of the convolutions.
"""

import tensorflow as tf

from .native import exporting
from .resize import map_size

__all__ = ["channel_shuffle"]


def channel_shuffle(x, groups: int):
    """Channel i C/g + j goes to j g + i: neighbours now come from different groups.

    Args:
        x: (N, H, W, C).
        groups: g, divides C. The inverse is a shuffle with C / g groups.

    Returns:
        (N, H, W, C)

    Source: arXiv:1707.01083, section 3.1.
    """
    (height, width), channels = map_size(x), x.shape[-1]
    if exporting():
        # mirror: Channels are axis 1
        x = tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, groups, channels // groups, height, width))
        x = tf.reshape(tf.transpose(x, (0, 2, 1, 3, 4)), (-1, channels, height, width))
        return tf.transpose(x, (0, 2, 3, 1))
    x = tf.reshape(x, (-1, height, width, groups, channels // groups))
    return tf.reshape(tf.transpose(x, (0, 1, 2, 4, 3)), (-1, height, width, channels))
