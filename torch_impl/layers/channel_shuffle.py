"""Mixing of channel groups.

Mirror notes:
- Channels are axis 1 in PyTorch, the last axis in TensorFlow, which transposes the map to NCHW around the shuffle while
  exporting: these transposes cancel those of the convolutions.
"""

__all__ = ["channel_shuffle"]


def channel_shuffle(x, groups: int):
    """Channel i C/g + j goes to j g + i: neighbours now come from different groups.

    Args:
        x: (N, C, H, W).
        groups: g, divides C. The inverse is a shuffle with C / g groups.

    Returns:
        (N, C, H, W)

    Source: arXiv:1707.01083, section 3.1.
    """
    _, channels, height, width = x.shape
    x = x.reshape(-1, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(-1, channels, height, width)  # mirror: Channels are axis 1
