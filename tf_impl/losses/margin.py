"""Softmax over classes with a margin: the common parts of SphereFace, CosFace, ArcFace and their relatives.

The logit of a class is the (scaled) cosine between an embedding and the row of the class in a weight; the loss demands
more of the right class than of the others. Entries are selected by a one-hot mask instead of being assigned, because
that exports.

Mirror notes:
- Below a bound there is no gradient: ``clamp`` has this rule, for ``tf.maximum`` the comparison has to be written out.
"""

import math

import tensorflow as tf

from tf_impl.losses.cross_entropy import sparse_cross_entropy

__all__ = ["annealing", "classify", "encode", "margin_cosines", "multiple_angle"]

NO_CLASS = -1  # label of a row that belongs to no class
EPS = 1e-12  # smallest squared sine; the root has no gradient at 0
EDGE = 1e-7  # distance of an arc cosine's argument from -1 and 1, where its gradient is infinite


def encode(labels, classes: int, dtype):
    """One-hot labels: (N,) -> (N, classes); a row of zeros for -1."""
    valid = labels != NO_CLASS
    target = tf.one_hot(tf.where(valid, labels, tf.zeros_like(labels)), classes, dtype=dtype)
    return target * tf.cast(valid, dtype)[:, None]


def classify(logits, labels):
    """Mean cross-entropy of logits (N, K) over the rows whose label (N,) is not -1."""
    return sparse_cross_entropy(logits, tf.where(labels != NO_CLASS, labels, -100))


def annealing(iteration, base: float = 1500.0, gamma: float = 0.1, power: float = 1.0, minimum: float = 5.0):
    """Weight of the plain logit: max(minimum, base * (1 + gamma * iteration) ** -power)."""
    return max(minimum, base * (1 + gamma * iteration) ** -power)


def multiple_angle(cosines, m: int):
    """(-1)^k cos(m theta) - 2k, which falls from 1 to 1 - 2m over all angles, k = floor(m theta / pi).

    k and its sign have no gradient; k is the number of bounds cos(j pi / m) above the cosine, so no angle is needed.

    Args:
        cosines: any shape, cos(theta).
        m: 1 to 4.

    Returns:
        The same shape.

    Raises:
        ValueError: for any other m.

    Source: arXiv:1612.02295, equation 6.
    """
    c = cosines
    if m not in (1, 2, 3, 4):
        raise ValueError(f"m={m} must be 1, 2, 3 or 4")
    chebyshev = {1: c, 2: 2 * c**2 - 1, 3: 4 * c**3 - 3 * c, 4: 8 * c**4 - 8 * c**2 + 1}[m]
    k = sum(tf.cast(c <= math.cos(j * math.pi / m), c.dtype) for j in range(1, m)) if m > 1 else tf.zeros_like(c)
    sign = 1 - 2 * (k - 2 * tf.floor(k / 2))
    return sign * chebyshev - 2 * k


def margin_cosines(cosines, margins=(1.0, 0.5, 0.0), fallback: str = "none"):
    """cos(m1 theta + m2) - m3.

    Args:
        cosines: any shape, cos(theta).
        margins: m1, m2 (radians), m3.
        fallback: "monotone" continues with cos(theta) - m2 sin(m2) where theta + m2 is beyond pi (m1 = 1 only), where
            the cosine would rise again; "none" does not.

    Returns:
        The same shape.

    Raises:
        ValueError: for an unknown fallback, or "monotone" with m1 other than 1.

    Source: arXiv:1801.07698, equation 4.
    """
    m1, m2, m3 = margins
    if fallback not in ("none", "monotone"):
        raise ValueError(f"fallback={fallback!r} must be 'none' or 'monotone'")
    if fallback == "monotone" and m1 != 1:
        raise ValueError(f"fallback='monotone' needs m1 = 1, got margins={tuple(margins)}")
    moved = cosines
    if m1 != 1:
        moved = tf.cos(m1 * tf.acos(tf.clip_by_value(cosines, EDGE - 1, 1 - EDGE)) + m2)
    elif m2:  # by the sum formula: the gradient of an arc cosine is infinite at -1 and 1
        square = 1 - tf.square(cosines)
        sines = tf.sqrt(tf.where(square > EPS, square, tf.constant(EPS, square.dtype)))  # mirror: no gradient
        moved = cosines * math.cos(m2) - sines * math.sin(m2)
    if fallback == "monotone":
        moved = tf.where(cosines >= math.cos(math.pi - m2), moved, cosines - m2 * math.sin(m2))
    return moved - m3
