"""Stochastic depth.

Mirror notes:
- The samples that are kept come from the framework's own generator unless they are given.
"""

import keras
import tensorflow as tf

__all__ = ["StochasticDepth"]


@keras.saving.register_keras_serializable("diptych")
class StochasticDepth(keras.layers.Layer):
    """Drop the branch of whole samples in training, and scale up the others (arXiv:1603.09382).

    Args:
        rate: probability that a sample is dropped, in [0, 1).

    Inputs: x (N, ...); ``keep`` (N,), 1 for the samples that are kept and 0 for the others, drawn if it is None.
    Returns: the shape of x; x itself in evaluation mode.
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, keep=None, training=False):
        if keep is None:
            if not (training and self.trainable) or self.rate == 0:
                return x
            keep = tf.random.uniform((tf.shape(x)[0],)) >= self.rate  # mirror: samples that are kept
        shape = (-1, *(1,) * (x.shape.rank - 1))
        return x * tf.reshape(tf.cast(keep, x.dtype) / (1 - self.rate), shape)
