"""A learnt factor of a map.

Mirror notes:
- A parameter without axes in both panels; Keras makes it with an initializer.
"""

import keras
import tensorflow as tf

__all__ = ["Scale"]


@keras.saving.register_keras_serializable("diptych")
class Scale(keras.layers.Layer):
    """x times a learnt number, of any shape.

    Args:
        initial: the number before training.
    """

    def __init__(self, initial: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        initial = keras.initializers.Constant(self.initial)
        self.scale = self.add_weight(name="scale", shape=(), initializer=initial)  # mirror: without axes

    def call(self, x):
        return x * tf.cast(self.scale, x.dtype)

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}
