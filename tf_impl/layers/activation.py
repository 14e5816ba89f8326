"""Activations that differ between the frameworks.

Mirror notes:
- TensorFlow keeps the slope of its leaky ReLU in single precision, PyTorch the sixth of its hard sigmoid's gradient.
- TensorFlow writes the GELU out: its exact variant does not export, its tanh variant has a constant in single
  precision.
"""

import math

import keras
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["Hardswish", "LeakyReLU", "gelu", "hardsigmoid"]


def _native(op: str, x, attributes: dict):
    """The operator of ONNX; a map is transposed to NCHW around it, as around the neighbouring convolutions."""
    if x.shape.rank != 4:
        return onnx_node(op, [x], attributes, x.dtype, x.shape)
    y = tf.transpose(x, (0, 3, 1, 2))
    return tf.transpose(onnx_node(op, [y], attributes, y.dtype, y.shape), (0, 2, 3, 1))


def gelu(x, approximate: str = "none"):
    """x times the normal distribution function of x, of any shape (arXiv:1606.08415).

    Args:
        approximate: "none" for the exact function, "tanh" for GPT's approximation.
    """
    if approximate == "tanh":
        return 0.5 * x * (1 + tf.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + tf.math.erf(x * 0.5**0.5))  # mirror: writes the GELU out


def hardsigmoid(x):
    """relu6(x + 3) / 6, of any shape."""
    if exporting():
        return _native("HardSigmoid", x, {"alpha": 1 / 6, "beta": 0.5})
    return tf.nn.relu6(x + 3) / 6  # mirror: sixth of its hard sigmoid


@keras.saving.register_keras_serializable("diptych")
class Hardswish(keras.layers.Layer):
    """x relu6(x + 3) / 6, of any shape (arXiv:1905.02244, section 5.2)."""

    def call(self, x):
        return _native("HardSwish", x, {}) if exporting() else x * hardsigmoid(x)


@keras.saving.register_keras_serializable("diptych")
class LeakyReLU(keras.layers.Layer):
    """x where it is positive, ``negative_slope`` x elsewhere.

    Args:
        negative_slope: between 0 and 1.
    """

    def __init__(self, negative_slope: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        self.negative_slope = negative_slope

    def call(self, x):
        if x.dtype == tf.float32:
            return tf.nn.leaky_relu(x, self.negative_slope)
        # mirror: slope of its leaky ReLU
        return tf.maximum(self.negative_slope * x, x)  # at 0 the gradient goes to the first, as in PyTorch

    def get_config(self):
        return {**super().get_config(), "negative_slope": self.negative_slope}
