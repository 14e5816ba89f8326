"""Long short-term memory with PyTorch's parameters.

Mirror notes:
- PyTorch ships it. Keras' has one bias instead of two and another layout, so the TensorFlow panel has its own layer,
  which holds PyTorch's tensors as they are.
- While exporting, both emit the ``LSTM`` operator themselves, in ONNX's order of gates; PyTorch's exporter would do so
  too, but it first runs through the sequence step by step, and does not support sequences of various lengths.
"""

import keras
import tensorflow as tf

from .native import exporting, onnx_node

__all__ = ["LSTM"]


def turned(x, lengths):
    """Every sequence reversed; what comes after its end stays.  (T, N, .), lengths (N,) or None."""
    if lengths is None:
        return tf.reverse(x, [0])
    return tf.reverse_sequence(x, lengths, seq_axis=0, batch_axis=1)


@keras.saving.register_keras_serializable("diptych")
class LSTM(keras.layers.Layer):
    """Long short-term memory over a sequence, optionally stacked and in both directions (Neural Computation 9(8),
    1997).

    Args:
        units: width H of the state.
        num_layers: number of stacked layers L.
        use_bias: whether biases are added; there are two per direction, one for the input and one for the state.
        batch_first: (N, T, .) instead of (T, N, .); states are (., N, H) in both cases.
        bidirectional: a second pass from the end (D = 2), concatenated after the first.

    Inputs: (T, N, I), and optionally the pair of first states (L D, N, H), zero by default, and the lengths (N,) int of
        the sequences, 1 to T, T by default; the second direction reads every sequence from its own end.
    Returns: the outputs (T, N, D H), 0 after the end, and the pair of last states h and c (L D, N, H).
    """

    def __init__(
        self,
        units: int,
        num_layers: int = 1,
        use_bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units, self.num_layers, self.use_bias = units, num_layers, use_bias
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.directions = ("", "_reverse") if bidirectional else ("",)

    def build(self, input_shape):
        bound = self.units**-0.5  # PyTorch's
        for layer in range(self.num_layers):
            width = input_shape[-1] if layer == 0 else self.units * len(self.directions)
            # rows of the gates i, f, g, o
            shapes = {"weight_ih": (4 * self.units, width), "weight_hh": (4 * self.units, self.units)}
            if self.use_bias:
                shapes |= {"bias_ih": (4 * self.units,), "bias_hh": (4 * self.units,)}
            for direction in self.directions:
                for kind, shape in shapes.items():
                    name = f"{kind}_l{layer}{direction}"
                    initial = keras.initializers.RandomUniform(-bound, bound)  # an initialiser repeats its values
                    # mirror: one bias instead of two
                    setattr(self, name, self.add_weight(name=name, shape=shape, initializer=initial))

    def call(self, x, hx=None, lengths=None):
        if self.batch_first:
            x = tf.transpose(x, (1, 0, 2))
        count = len(self.directions)
        last_h, last_c = [], []
        for layer in range(self.num_layers):
            state = None if hx is None else [s[layer * count : (layer + 1) * count] for s in hx]
            x, h, c = (self._operator if exporting() else self._loop)(x, layer, state, lengths)
            last_h.append(h)
            last_c.append(c)
        if self.batch_first:
            x = tf.transpose(x, (1, 0, 2))
        return x, (tf.concat(last_h, 0), tf.concat(last_c, 0))

    def _tensors(self, kind: str, layer: int) -> list:
        return [tf.convert_to_tensor(getattr(self, f"{kind}_l{layer}{direction}")) for direction in self.directions]

    def _loop(self, x, layer, state, lengths):
        """One layer, step by step; the directions are a batch of two, the second one reads the reversed sequence."""
        time, batch, width = tf.shape(x)[0], tf.shape(x)[1], x.shape[-1]
        lengths = None if lengths is None else tf.cast(lengths, tf.int32)
        projected = []
        for i, weight in enumerate(self._tensors("weight_ih", layer)):
            rows = tf.matmul(tf.reshape(turned(x, lengths) if i else x, (-1, width)), weight, transpose_b=True)
            if self.use_bias:
                rows += self._tensors("bias_ih", layer)[i] + self._tensors("bias_hh", layer)[i]
            projected.append(tf.reshape(rows, (time, batch, 4 * self.units)))
        projected = tf.stack(projected, 1)  # (T, D, N, 4 H)
        recurrent = tf.stack(self._tensors("weight_hh", layer))  # (D, 4 H, H)
        if state is None:
            state = [tf.zeros((len(self.directions), batch, self.units), x.dtype)] * 2
        read = tf.TensorArray(x.dtype, time, element_shape=projected.shape[1:]).unstack(projected)
        written = tf.TensorArray(x.dtype, time, element_shape=(len(self.directions), None, self.units))

        def step(t, h, c, written):
            i, f, g, o = tf.split(read.read(t) + tf.matmul(h, recurrent, transpose_b=True), 4, -1)
            following = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            y = tf.sigmoid(o) * tf.tanh(following)
            if lengths is None:
                return t + 1, y, following, written.write(t, y)
            inside = (t < lengths)[:, None]
            written = written.write(t, tf.where(inside, y, tf.zeros_like(y)))
            return t + 1, tf.where(inside, y, h), tf.where(inside, following, c), written

        _, h, c, written = tf.while_loop(lambda t, *_: t < time, step, (0, *state, written))
        y = tf.ensure_shape(written.stack(), (x.shape[0], len(self.directions), x.shape[1], self.units))
        parts = [turned(y[:, i], lengths) if i else y[:, i] for i in range(len(self.directions))]
        return tf.concat(parts, -1), h, c

    def _operator(self, x, layer, state, lengths):
        """One layer as ONNX's operator, whose gates are i, o, f, g."""

        def reordered(kind):
            gates = (tf.split(tensor, 4) for tensor in self._tensors(kind, layer))
            return tf.stack([tf.concat([i, o, f, g], 0) for i, f, g, o in gates])  # mirror: order of gates

        count, size = len(self.directions), self.units
        lengths = None if lengths is None else tf.cast(lengths, tf.int32)
        bias = tf.concat([reordered("bias_ih"), reordered("bias_hh")], 1) if self.use_bias else None
        inputs = [x, reordered("weight_ih"), reordered("weight_hh"), bias, lengths, *(state or (None, None))]
        while inputs[-1] is None:
            inputs.pop()
        y, h, c = onnx_node(
            "LSTM",
            inputs,
            {"hidden_size": size, "direction": "bidirectional" if count == 2 else "forward"},
            [x.dtype] * 3,
            [(x.shape[0], count, x.shape[1], size), (count, x.shape[1], size), (count, x.shape[1], size)],
        )
        # (T, D, N, H) -> (T, N, D H)
        return tf.reshape(tf.transpose(y, (0, 2, 1, 3)), (x.shape[0] or tf.shape(x)[0], -1, count * size)), h, c
