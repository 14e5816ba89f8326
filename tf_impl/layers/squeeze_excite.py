"""Squeeze and excitation.

Mirror notes:
- The mean over height and width keeps both axes, so both panels apply 1x1 convolutions to it.
"""

import keras
import tensorflow as tf

from .convolution import Conv2D
from .initialization import KaimingNormal
from .pooling import adaptive_avg_pool2d

__all__ = ["SqueezeExcite"]


@keras.saving.register_keras_serializable("diptych", "squeeze_excite.SqueezeExcite")
class SqueezeExcite(keras.layers.Layer):
    """Channel attention: every channel is scaled by a gate that sees the means of all channels (arXiv:1709.01507).

    Args:
        channels: width C of the map.
        squeezed: width between the two 1x1 convolutions.
        gate: the last function, ``tf.sigmoid`` or ``hardsigmoid``.

    x: (N, H, W, C), the same shape out.
    """

    def __init__(self, channels: int, squeezed: int, gate=tf.sigmoid, **kwargs):
        super().__init__(**kwargs)
        options = dict(kernel_initializer=KaimingNormal, bias_initializer="zeros")
        self.fc1 = Conv2D(squeezed, 1, **options)
        self.fc2 = Conv2D(channels, 1, **options)
        self.gate = gate

    def call(self, x):
        s = adaptive_avg_pool2d(x, 1)  # mirror: keeps both axes
        return x * self.gate(self.fc2(tf.nn.relu(self.fc1(s))))
