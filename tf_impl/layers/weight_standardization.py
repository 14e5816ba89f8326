"""Convolutions whose kernels are standardised per output channel, as in mmcv.

"Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", 2019, arXiv:1903.10520; with an
affine map of constants: "DetectoRS", 2020, arXiv:2006.02334. Names: mmcv ``cnn/bricks/conv_ws.py`` (Apache-2.0).

Mirror notes:
- Kernels are stored (kh, kw, in / groups, out), in PyTorch (out, in / groups, kh, kw).
- Constants are non-trainable variables in Keras, buffers in PyTorch.
"""

import math

import keras
import tensorflow as tf

from .convolution import Conv2D
from .normalization import moments

__all__ = ["ConvAWS2d", "ConvWS2d"]


def centred(kernel):
    """A kernel minus its mean, and its unbiased variance, per output channel."""
    kernel = tf.convert_to_tensor(kernel)
    mean, variance = moments(kernel, (0, 1, 2), keepdims=True)
    count = math.prod(kernel.shape[:3])
    return kernel - mean, variance * (count / (count - 1))


@keras.saving.register_keras_serializable("diptych")
class ConvWS2d(Conv2D):
    """Convolution with the kernel (w - mean) / (deviation + epsilon), of the unbiased deviation.

    Args:
        filters, kernel_size, kwargs: of :class:`Conv2D`.
        epsilon: added to the deviation; :class:`StandardizedConv2D` adds it to the biased variance.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, strides, padding, dilation_rate, groups, use_bias, **kwargs)
        self.epsilon = epsilon

    def convolution_op(self, inputs, kernel):
        kernel, variance = centred(kernel)  # mirror: are stored
        return super().convolution_op(inputs, kernel / (tf.sqrt(variance) + self.epsilon))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("diptych")
class ConvAWS2d(Conv2D):
    """Convolution with the kernel gamma (w - mean) / sqrt(unbiased variance + epsilon) + beta.

    Gamma and beta are constants per output channel, initially 1 and 0; a checkpoint sets them.

    Args:
        filters, kernel_size, kwargs: of :class:`Conv2D`.
        epsilon: added to the variance inside the root.

    Inputs: (N, H, W, C).  Returns: (N, H', W', filters).
    """

    torch_names = {
        "kernel": ("weight", (3, 2, 0, 1)),
        "bias": ("bias", None),
        "weight_gamma": ("weight_gamma", (3, 2, 0, 1)),
        "weight_beta": ("weight_beta", (3, 2, 0, 1)),
    }

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, strides, padding, dilation_rate, groups, use_bias, **kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        super().build(input_shape)
        options = {"shape": (1, 1, 1, self.filters), "trainable": False}  # mirror: non-trainable
        self.weight_gamma = self.add_weight(name="weight_gamma", initializer="ones", **options)
        self.weight_beta = self.add_weight(name="weight_beta", initializer="zeros", **options)

    def standardized(self):
        """The kernel."""
        kernel, variance = centred(self.kernel)
        gamma, beta = (tf.convert_to_tensor(value) for value in (self.weight_gamma, self.weight_beta))
        return gamma * (kernel * tf.math.rsqrt(variance + self.epsilon)) + beta

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, self.standardized())

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
