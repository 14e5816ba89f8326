"""Pixel shuffle: channels become pixels.

Mirror notes:
- PyTorch ships it; TensorFlow's ``depth_to_space`` has another order of channels.
"""

import keras
import tensorflow as tf

from .native import exporting, onnx_node
from .resize import map_size

__all__ = ["PixelShuffle", "pixel_shuffle"]


def pixel_shuffle(x, factor: int):
    """Channel c r^2 + i r + j of pixel (h, w) becomes channel c of pixel (h r + i, w r + j).

    Args:
        x: (N, H, W, C r^2).
        factor: r.

    Returns:
        (N, H r, W r, C)

    Source: arXiv:1609.05158, equation 4.
    """
    height, width = map_size(x)
    channels = x.shape[-1] // factor**2
    if exporting():
        y = tf.transpose(x, (0, 3, 1, 2))
        size = [None if n is None else n * factor for n in x.shape[1:3]]
        attributes = {"blocksize": factor, "mode": "CRD"}
        y = onnx_node("DepthToSpace", [y], attributes, y.dtype, [x.shape[0], channels, *size])
        return tf.transpose(y, (0, 2, 3, 1))
    x = tf.reshape(x, (-1, height, width, channels, factor, factor))
    x = tf.transpose(x, (0, 1, 4, 2, 5, 3))  # mirror: another order of channels
    return tf.reshape(x, (-1, height * factor, width * factor, channels))


@keras.saving.register_keras_serializable("diptych")
class PixelShuffle(keras.layers.Layer):
    """:func:`pixel_shuffle` as a layer.

    Args:
        upscale_factor: r.

    Inputs: (N, H, W, C r^2).  Returns: (N, H r, W r, C).
    """

    def __init__(self, upscale_factor: int, **kwargs):
        super().__init__(**kwargs)
        self.upscale_factor = upscale_factor

    def call(self, x):
        return pixel_shuffle(x, self.upscale_factor)

    def get_config(self):
        return {**super().get_config(), "upscale_factor": self.upscale_factor}
