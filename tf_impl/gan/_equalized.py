"""Layers whose weights are scaled when they are used, so that an optimiser moves all of them equally.

"Progressive Growing of GANs for Improved Quality, Stability, and Variation", 2017, arXiv:1710.10196, sections 3 and 4.

Mirror notes:
- PyTorch keeps the stored weight and scales it in ``forward``; Keras' own convolution receives the scaled kernel.
"""

import math

import keras
import tensorflow as tf

from tf_impl.layers.convolution import Conv2D
from tf_impl.layers.linear import Dense
from tf_impl.layers.resize import map_size

__all__ = ["EqualizedConv2d", "EqualizedLinear", "minibatch_deviation", "pixel_norm"]


@keras.saving.register_keras_serializable("diptych")
class EqualizedConv2d(Conv2D):
    """Convolution with weights of deviation 1, times gain / sqrt(fan_in) when it is used (section 4.1).

    Args:
        filters, kernel_size, padding: of the convolution, which has a bias.
        gain: sqrt(2) before a leaky ReLU.
        transposed: the stored weight (in_channels, out_channels, ...) belongs to a transposed convolution, and is used
            mirrored in both axes.

    x: (N, H, W, C) -> (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        padding: int = 0,
        gain: float = 2**0.5,
        transposed: bool = False,
        **kwargs,
    ):
        normal = keras.initializers.RandomNormal(stddev=1.0)
        super().__init__(
            filters,
            kernel_size,
            padding=padding,
            **{"kernel_initializer": normal, "bias_initializer": "zeros", **kwargs},
        )
        self.gain, self.transposed = gain, transposed

    @property
    def torch_names(self):
        """The stored weight, in the convolution's layout."""
        axes = (2, 3, 0, 1) if self.transposed else (3, 2, 0, 1)
        return {"kernel": ("weight", axes), "bias": ("bias", None)}

    def convolution_op(self, inputs, kernel):
        scale = self.gain / math.sqrt(kernel.shape[0] * kernel.shape[1] * kernel.shape[2])
        kernel = tf.convert_to_tensor(kernel) * scale  # mirror: scales it
        return super().convolution_op(inputs, tf.reverse(kernel, (0, 1)) if self.transposed else kernel)

    def get_config(self):
        return {**super().get_config(), "gain": self.gain, "transposed": self.transposed}


@keras.saving.register_keras_serializable("diptych")
class EqualizedLinear(Dense):
    """Dense layer with such weights.

    Args:
        units: width of the result.
        gain: see :class:`EqualizedConv2d`.
        lr_mul: slows a layer's training: weights are stored divided by it and used multiplied by it, like the bias.

    x: (N, C) -> (N, units).
    """

    def __init__(self, units: int, gain: float = 2**0.5, lr_mul: float = 1.0, **kwargs):
        normal = keras.initializers.RandomNormal(stddev=1.0 / lr_mul)
        super().__init__(units, **{"kernel_initializer": normal, "bias_initializer": "zeros", **kwargs})
        self.gain, self.lr_mul = gain, lr_mul

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel)
        scale = self.gain / math.sqrt(kernel.shape[0]) * self.lr_mul
        return tf.matmul(x, kernel * scale) + self.bias * self.lr_mul

    def get_config(self):
        return {**super().get_config(), "gain": self.gain, "lr_mul": self.lr_mul}


def pixel_norm(x):
    """Every pixel's vector divided by the root of its mean square (section 4.2).  x: (N, ..., C)."""
    return x / tf.sqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-8)


def minibatch_deviation(x, group: int = 4):
    """Append a channel with the deviation within a group of images, one number for all pixels (section 3).

    Args:
        x: (N, H, W, C); image n belongs to group n mod (N / G).
        group: G, images per group; all of them if there are fewer.

    Returns:
        (N, H, W, C + 1)
    """
    count = tf.shape(x)[0]
    member = tf.range(count) % (count // tf.minimum(count, group))
    same = tf.cast(member[:, None] == member, x.dtype)
    share = same / tf.reduce_sum(same, 1, keepdims=True)  # (N, N): averages over a group
    height, width = map_size(x)
    flat = tf.reshape(x, (count, -1))
    variance = tf.matmul(share, tf.square(flat - tf.matmul(share, flat)))
    deviation = tf.reduce_mean(tf.sqrt(variance + 1e-8), 1)
    return tf.concat((x, tf.tile(deviation[:, None, None, None], (1, height, width, 1))), -1)
