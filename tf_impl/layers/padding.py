"""Padding by reflection; Keras only has a layer that adds zeros. No twin: PyTorch has ``nn.ReflectionPad2d``."""

import keras
import tensorflow as tf

__all__ = ["ReflectionPadding2D"]


@keras.saving.register_keras_serializable("diptych")
class ReflectionPadding2D(keras.layers.Layer):
    """Extend a map by its mirror image, without repeating the border itself.

    Args:
        padding: rows and columns on each side.

    Inputs: (N, H, W, C), H and W above ``padding``.  Returns: (N, H + 2 padding, W + 2 padding, C).
    """

    def __init__(self, padding: int, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, x):
        sides = [self.padding, self.padding]
        return tf.pad(x, [[0, 0], sides, sides, [0, 0]], "REFLECT")
