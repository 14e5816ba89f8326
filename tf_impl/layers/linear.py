"""Dense layer and embedding with PyTorch's initial values.

No twin: PyTorch ships ``nn.Linear`` and ``nn.Embedding``.
"""

import keras
import tensorflow as tf

__all__ = ["Dense", "Embedding", "SequenceDense"]


@keras.saving.register_keras_serializable("diptych")
class Dense(keras.layers.Dense):
    """keras.layers.Dense with PyTorch's initial values: uniform between -1/sqrt(C) and 1/sqrt(C), the bias included.

    Args:
        units: width of the result.
        activation, use_bias, kernel_initializer, bias_initializer, kwargs: for keras.layers.Dense.

    Inputs: (..., C).  Returns: (..., units).
    """

    def __init__(
        self,
        units: int,
        activation=None,
        use_bias: bool = True,
        kernel_initializer=None,
        bias_initializer=None,
        **kwargs,
    ):
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=uniform if kernel_initializer is None else kernel_initializer,
            bias_initializer=bias_initializer,
            **kwargs,
        )

    def build(self, input_shape):
        default = self.bias_initializer is None
        if default:
            bound = input_shape[-1] ** -0.5
            self.bias_initializer = keras.initializers.RandomUniform(-bound, bound)
        super().build(input_shape)
        if default:
            self.bias_initializer = None


@keras.saving.register_keras_serializable("diptych")
class SequenceDense(Dense):
    """:class:`Dense` of every position of a sequence, (..., C), as one matrix product.

    Keras flattens the other axes and restores them, which exports as nine nodes where the length is not known.
    """

    def call(self, inputs, training=None):
        y = tf.matmul(inputs, tf.cast(self.kernel, inputs.dtype))
        return self.activation(y if self.bias is None else y + tf.cast(self.bias, y.dtype))


@keras.saving.register_keras_serializable("diptych", "linear.Embedding")
class Embedding(keras.layers.Embedding):
    """keras.layers.Embedding with PyTorch's initial values (normal, deviation 1); negative indices are not allowed.

    Args:
        input_dim, output_dim: shape of the table.
        embeddings_initializer, kwargs: for keras.layers.Embedding.

    Inputs: integers (...), 0-based.  Returns: (..., output_dim).
    """

    def __init__(self, input_dim: int, output_dim: int, embeddings_initializer=None, **kwargs):
        if embeddings_initializer is None:
            embeddings_initializer = keras.initializers.RandomNormal(stddev=1.0)
        super().__init__(input_dim, output_dim, embeddings_initializer=embeddings_initializer, **kwargs)
        if not self.built:
            self.build(None)  # its width is known, and a shared table is read before the layer is called

    def call(self, inputs):
        rows = tf.gather(tf.convert_to_tensor(self.embeddings), inputs)
        return tf.cast(rows, self.compute_dtype)
