"""Fully connected layer and gated recurrent unit with PaddlePaddle's parameters.

Paddle's unit resets the state before its matrix (nn.GRU does it after), and lets u weigh the new value, not the old.

Mirror notes:
- Neither framework has this unit, so both run over time in a loop: PyTorch's in Python, TensorFlow's in the graph.
- While exporting, both emit the ``GRU`` operator, whose gates are z = 1 - u, r, h.
"""

import keras
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["FC", "DynamicGRU", "bidirectional_gru"]


@keras.saving.register_keras_serializable("diptych")
class FC(keras.layers.Layer):
    """y = x W + b with W (in, out).

    Args:
        units: width of the result.

    Inputs: (..., D).  Returns: (..., units).
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        initial = keras.initializers.RandomUniform(-0.1, 0.1)
        self.w_0 = self.add_weight(name="w_0", shape=(input_shape[-1], self.units), initializer=initial)
        self.b_0 = self.add_weight(name="b_0", shape=(self.units,), initializer="zeros")

    def call(self, x):
        return tf.matmul(x, tf.convert_to_tensor(self.w_0)) + tf.convert_to_tensor(self.b_0)


@keras.saving.register_keras_serializable("diptych")
class DynamicGRU(keras.layers.Layer):
    """The recurrent part of a gated recurrent unit (arXiv:1406.1078); its input is multiplied by the weights already.

    h = (1 - u) h' + u tanh(x_c + (r h') W_c), u = sigmoid(x_u + h' W_u), r = sigmoid(x_r + h' W_r).

    Args:
        size: width H of the state.

    The matrix (H, 3 H) is not three groups of columns: its values, in their order, are W_u and W_r as one (H, 2 H)
    matrix, and after them W_c (H, H).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        initial = keras.initializers.RandomUniform(-0.1, 0.1)
        self.w_0 = self.add_weight(name="w_0", shape=(size, 3 * size), initializer=initial)
        self.b_0 = self.add_weight(name="b_0", shape=(1, 3 * size), initializer="zeros")

    def matrices(self):
        """W_u and W_r (H, 2 H), W_c (H, H)."""
        values, cut = tf.reshape(tf.convert_to_tensor(self.w_0), (-1,)), 2 * self.size**2
        return tf.reshape(values[:cut], (self.size, -1)), tf.reshape(values[cut:], (self.size, -1))


def turned(x, lengths):
    """Every sequence reversed; what comes after its end stays.  x: (N, T, D), lengths: (N,)."""
    return tf.reverse_sequence(x, lengths, seq_axis=1, batch_axis=0)


def operator(x, lengths, parts):
    """Both directions as ONNX's GRU operator.  x: (N, T, I) -> (N, T, 2 H)."""
    size = parts[0][1].size

    def gates(columns):  # u, r, c along the first axis
        return tf.concat([-columns[:size], columns[size:]], 0)

    weights, recurrent, biases = [], [], []
    for fc, gru in parts:
        gate, candidate = gru.matrices()
        weights.append(gates(tf.transpose(tf.convert_to_tensor(fc.w_0))))
        recurrent.append(gates(tf.transpose(tf.concat([gate, candidate], 1))))
        biases.append(tf.concat([gates(tf.convert_to_tensor(b)) for b in (fc.b_0, gru.b_0[0])], 0))
    x = tf.transpose(x, (1, 0, 2))
    y, _ = onnx_node(  # mirror: whose gates
        "GRU",
        [x, tf.stack(weights), tf.stack(recurrent), tf.stack(biases), tf.cast(lengths, tf.int32)],
        {"hidden_size": size, "direction": "bidirectional", "linear_before_reset": 0},
        [x.dtype] * 2,
        [(x.shape[0], 2, x.shape[1], size), (2, x.shape[1], size)],
    )
    # (T, 2, N, H) -> (N, T, 2 H)
    return tf.reshape(tf.transpose(y, (2, 0, 1, 3)), (-1, x.shape[0] or tf.shape(x)[0], 2 * size))


def bidirectional_gru(x, lengths, forward, backward):
    """Two units over sequences of various lengths, the second one backwards.

    Args:
        x: (N, T, I) float.
        lengths: (N,) int, 1 to T.
        forward, backward: an :class:`FC` and a :class:`DynamicGRU` each.

    Returns:
        (N, T, 2 H), 0 after the end.
    """
    parts = forward, backward
    if exporting():
        return operator(x, lengths, parts)
    given = [fc(y) + tf.convert_to_tensor(gru.b_0) for (fc, gru), y in zip(parts, (x, turned(x, lengths)), strict=True)]
    given = tf.transpose(tf.stack(given), (2, 0, 1, 3))  # (T, 2, N, 3 H)
    gate, candidate = (tf.stack(matrices) for matrices in zip(*(gru.matrices() for _, gru in parts), strict=True))
    size = forward[1].size
    time, batch = tf.shape(given)[0], tf.shape(given)[2]
    read = tf.TensorArray(x.dtype, time, element_shape=given.shape[1:]).unstack(given)
    written = tf.TensorArray(x.dtype, time, element_shape=(2, None, size))

    def step(t, h, written):
        now = read.read(t)
        u, r = tf.split(tf.sigmoid(now[..., : 2 * size] + tf.matmul(h, gate)), 2, -1)
        h = (1 - u) * h + u * tf.tanh(now[..., 2 * size :] + tf.matmul(r * h, candidate))
        return t + 1, h, written.write(t, h)

    start = tf.zeros((2, batch, size), x.dtype)
    _, _, written = tf.while_loop(lambda t, *_: t < time, step, (0, start, written))  # mirror: in a loop
    y = tf.transpose(written.stack(), (1, 2, 0, 3))  # (2, N, T, H)
    y = tf.concat([y[0], turned(y[1], lengths)], -1)
    return tf.ensure_shape(y * tf.sequence_mask(lengths, time, x.dtype)[..., None], (x.shape[0], x.shape[1], 2 * size))
