"""Positions as sines and cosines, in the four layouts in use, and as rotations of queries and keys.

"Attention Is All You Need", 2017, arXiv:1706.03762, section 3.5; tensor2tensor ``layers/common_attention.py``
(Apache-2.0); Hugging Face transformers ``models/marian/modeling_marian.py`` (Apache-2.0).
"RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, arXiv:2104.09864.
"""

import math

import tensorflow as tf

__all__ = ["STYLES", "rotate", "sinusoids"]

STYLES = ("paper", "t2t", "fairseq", "marian")


def sinusoids(places, dim: int, style: str = "paper"):
    """Sines and cosines of positions.

    "paper" interleaves sin and cos, of frequencies 10000^(-2i/dim); "marian" has the same in two halves; "t2t" and
    "fairseq" also have two halves, of frequencies 10000^(-i/(dim/2 - 1)).

    Args:
        places: (...) float, positions.
        dim: width D, even.
        style: one of ``STYLES``.

    Returns: (..., dim).
    Raises: ValueError if ``dim`` is odd or ``style`` is unknown.
    """
    if dim % 2:
        raise ValueError(f"dim={dim} must be even, half sines and half cosines")
    if style not in STYLES:
        raise ValueError(f"style={style!r} must be one of {', '.join(STYLES)}")
    last = dim / 2 - (style in ("t2t", "fairseq"))
    steps = tf.range(dim // 2, dtype=places.dtype)
    angles = places[..., None] * tf.exp(steps * (-math.log(10000) / last))
    waves = [tf.sin(angles), tf.cos(angles)]
    if style != "paper":
        return tf.concat(waves, -1)
    return tf.reshape(tf.stack(waves, -1), tf.concat([tf.shape(places), [dim]], 0))


def rotate(x, waves, halves: bool = False):
    """Rotate pairs of channels by angles.

    Args:
        x: (..., T, E).
        waves: (T, E), sines and cosines of the angles in two halves: :func:`sinusoids` in the style "marian".
        halves: whether a pair is channels i and i + E / 2, otherwise 2i and 2i + 1.
    """
    sin, cos = tf.split(waves, 2, -1)
    if halves:
        a, b = tf.split(x, 2, -1)
        return tf.concat([a * cos - b * sin, b * cos + a * sin], -1)
    a, b = x[..., 0::2], x[..., 1::2]
    return tf.reshape(tf.stack([a * cos - b * sin, b * cos + a * sin], -1), tf.shape(x))
