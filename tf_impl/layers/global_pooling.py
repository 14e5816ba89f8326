"""Global pooling of a map into a vector: by maximum, mean, generalised mean, the maxima of regions, or weighted sums.

"Particular object retrieval with integral max-pooling of CNN activations" (MAC, R-MAC), 2015, arXiv:1511.05879;
"Aggregating Deep Convolutional Features for Image Retrieval" (SPoC), 2015, arXiv:1510.07493; "Cross-dimensional
Weighting for Aggregated Deep Convolutional Features" (CroW), 2015, arXiv:1512.04065; "Fine-tuning CNN Image Retrieval
with No Human Annotation" (GeM), 2017, arXiv:1711.02512. Numbers and names: filipradenovic/cnnimageretrieval-pytorch
``cirtorch/layers`` (MIT).

Mirror notes:
- NCHW in PyTorch, NHWC in TensorFlow; vectors are (N, C) in both.
- Below a bound there is no gradient: ``clamp`` has this rule, for ``tf.maximum`` the comparison has to be written out.
"""

import keras
import tensorflow as tf

from weights.processing.retrieval.regions import regions

__all__ = [
    "MAC",
    "RMAC",
    "CroW",
    "GeM",
    "RegionalPooling",
    "SPoC",
    "crow",
    "gem",
    "l2n",
    "mac",
    "regional",
    "rmac",
    "spoc",
]

EPS = 1e-6


def l2n(x):
    """Rows x / (|x| + 1e-6), (..., C)."""
    return x / (tf.sqrt(at_least(tf.reduce_sum(tf.square(x), -1, keepdims=True), EPS**4)) + EPS)


def at_least(x, bound: float):
    return tf.where(x > bound, x, tf.constant(bound, x.dtype))  # mirror: Below a bound


def mac(x):
    """Maximum of every channel."""
    return tf.reduce_max(x, (1, 2))  # mirror: NCHW


def spoc(x):
    """Mean of every channel."""
    return tf.reduce_mean(x, (1, 2))


def gem(x, p=3.0):
    """(mean x^p)^(1/p) of every channel; values below 1e-6 count as 1e-6."""
    return tf.pow(tf.reduce_mean(tf.pow(at_least(x, EPS), p), (1, 2)), 1.0 / p)


def crow(x):
    """Sum of every channel, positions weighted by their total, channels by how rarely they are active."""
    total = tf.reduce_sum(x, -1, keepdims=True)  # (N, H, W, 1)
    share = total / tf.sqrt(at_least(tf.reduce_sum(tf.square(total), (1, 2), keepdims=True), EPS**2))
    places = tf.where(total > 0, tf.sqrt(at_least(share, EPS**2)), tf.zeros_like(total))
    active = tf.reduce_mean(tf.cast(tf.not_equal(x, 0), x.dtype), (1, 2))  # (N, C)
    rarity = tf.math.log(tf.maximum(tf.reduce_sum(active, 1, keepdims=True) / tf.maximum(active, EPS), EPS))
    return tf.reduce_sum(x * places, (1, 2)) * tf.where(active > 0, rarity, tf.zeros_like(active))


def regional(x, pool, levels: int = 3):
    """The whole map and all regions through one pool; height and width are static.

    Returns:
        (N, R, C).
    """
    height, width = x.shape[1:3]
    parts = [x[:, top : top + side, left : left + side] for top, left, side in regions(height, width, levels)]
    return tf.stack([pool(part) for part in (x, *parts)], 1)


def rmac(x, levels: int = 3):
    """Sum of the unit vectors of the whole map's and all regions' maxima."""
    return tf.reduce_sum(l2n(regional(x, mac, levels)), 1)


@keras.saving.register_keras_serializable("diptych")
class MAC(keras.layers.Layer):
    """See :func:`mac`."""

    def call(self, x):
        return mac(x)


@keras.saving.register_keras_serializable("diptych")
class SPoC(keras.layers.Layer):
    """See :func:`spoc`."""

    def call(self, x):
        return spoc(x)


@keras.saving.register_keras_serializable("diptych")
class CroW(keras.layers.Layer):
    """See :func:`crow`."""

    def call(self, x):
        return crow(x)


@keras.saving.register_keras_serializable("diptych")
class GeM(keras.layers.Layer):
    """Generalised mean.

    Args:
        p: its power, or the initial value where it is learned.
        learned: whether it is a parameter.

    x: (N, H, W, C) -> (N, C).
    """

    def __init__(self, p: float = 3.0, learned: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.p = p
        if learned:
            self.p = self.add_weight(name="p", shape=(1,), initializer=keras.initializers.Constant(p))

    def call(self, x):
        return gem(x, self.p)


@keras.saving.register_keras_serializable("diptych")
class RMAC(keras.layers.Layer):
    """See :func:`rmac`.

    Args:
        levels: of regions.
    """

    def __init__(self, levels: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.levels = levels

    def call(self, x):
        return rmac(x, self.levels)


@keras.saving.register_keras_serializable("diptych")
class RegionalPooling(keras.layers.Layer):
    """The sum of unit vectors, optionally whitened, of any pool over the whole map and all regions.

    Args:
        rpool: pools a region.
        whiten: a linear layer, or None.
        levels: of regions.

    x: (N, H, W, C) -> (N, D).
    """

    def __init__(self, rpool, whiten=None, levels: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.rpool, self.whiten, self.levels = rpool, whiten, levels

    def call(self, x):
        found = l2n(regional(x, self.rpool, self.levels))  # (N, R, C)
        if self.whiten is not None:
            found = l2n(self.whiten(found))
        return tf.reduce_sum(found, 1)
