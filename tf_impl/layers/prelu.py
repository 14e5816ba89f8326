"""A leaky ReLU whose slope is learnt.

Mirror notes:
- Keras has one slope per position unless axes are shared; PyTorch has one for all, or one per channel.
"""

import keras
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["PReLU"]


@keras.saving.register_keras_serializable("diptych")
class PReLU(keras.layers.Layer):
    """x where it is positive, a learnt slope times x elsewhere (arXiv:1502.01852).

    Args:
        num_parameters: 1, or the number of channels.
        init: slope before training.

    Inputs: (N, H, W, C).  Returns: the same shape.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, **kwargs):
        super().__init__(**kwargs)
        self.num_parameters, self.init = num_parameters, init

    def build(self, input_shape):
        initial = keras.initializers.Constant(self.init)
        # mirror: one slope per position
        self.weight = self.add_weight(name="weight", shape=(self.num_parameters,), initializer=initial)

    def call(self, x):
        weight = tf.cast(self.weight, x.dtype)
        if exporting():
            y = tf.transpose(x, (0, 3, 1, 2))
            y = onnx_node("PRelu", [y, tf.reshape(weight, (-1, 1, 1))], {}, y.dtype, y.shape)
            return tf.transpose(y, (0, 2, 3, 1))
        return tf.where(x > 0, x, weight * x)

    def get_config(self):
        return {**super().get_config(), "num_parameters": self.num_parameters, "init": self.init}
