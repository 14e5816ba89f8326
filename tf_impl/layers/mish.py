"""Mish.

Mirror notes:
- Softplus is written out in both panels: PyTorch's is a straight line above 20.
"""

import keras
import tensorflow as tf

__all__ = ["Mish"]


@keras.saving.register_keras_serializable("diptych")
class Mish(keras.layers.Layer):
    """x tanh(log(1 + exp(x))), of any shape (arXiv:1908.08681)."""

    def call(self, x):
        return x * tf.tanh(tf.nn.relu(x) + tf.math.softplus(-tf.abs(x)))  # mirror: written out
