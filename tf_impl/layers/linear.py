"""Fully connected layer and embedding with PyTorch's arguments.

Mirror notes:
- PyTorch ships both; ``Linear`` stores its kernel (in, out), in PyTorch (out, in).
"""

import keras
import tensorflow as tf

__all__ = ["Embedding", "Linear"]


class Linear(keras.layers.Layer):
    """y = x W + b.

    Args:
        in_features, out_features: widths.
        bias: whether b is added.

    Inputs: (..., in_features).  Returns: (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.in_features, self.out_features, self.use_bias = in_features, out_features, bias
        # PyTorch's default
        self.kernel_initializer = self.bias_initializer = keras.initializers.RandomUniform(
            -(in_features**-0.5), in_features**-0.5
        )

    def build(self, input_shape):
        if input_shape is not None and input_shape[-1] != self.in_features:
            raise ValueError(f"{self.name}: {self.in_features} input features expected, {input_shape[-1]} given")
        shape = (self.in_features, self.out_features)
        # mirror: stores its kernel
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.out_features,), initializer=self.bias_initializer)

    def call(self, x):
        y = tf.matmul(x, tf.cast(self.kernel, x.dtype))
        return y if self.bias is None else y + tf.cast(self.bias, y.dtype)


class Embedding(keras.layers.Layer):
    """Rows of a table by index.

    Args:
        num_embeddings, embedding_dim: shape of the table.

    Inputs: integers (...), 0-based.  Returns: (..., embedding_dim).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(num_embeddings, embedding_dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )

    def call(self, indices):
        return tf.gather(tf.convert_to_tensor(self.embeddings), indices)
