"""Recurrent layers: PyTorch's numbers and gradients, graphs, ONNX operators, and texts of several lengths."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import tf_impl.export
import tf_impl.layers.recurrent as tf_recurrent
import tf_impl.state
import torch_impl.export
import torch_impl.layers.recurrent as torch_recurrent
import torch_impl.state
from parity_tests.harness.vocabulary import to_keras
from weights import onnx_file

FORMS = {
    "plain": {},
    "both directions": {"bidirectional": True},
    "stacked": {"num_layers": 3, "bidirectional": True},
    "without biases": {"bias": False, "num_layers": 2},
    "batch first": {"batch_first": True, "bidirectional": True},
}


def keras_layer(form):
    """TensorFlow's layer of four units, built for inputs of width 5."""
    layer = tf_recurrent.LSTM(4, **to_keras(tf_recurrent.LSTM, form))
    return tf_impl.state.build(layer, {"x": ((3, 5), layer.compute_dtype)})


def recurrent_twins(form, with_state):
    """TensorFlow's and PyTorch's layer of the same weights, inputs, and what they return."""
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 4, **form).double()
    keras.config.set_dtype_policy("float64")
    try:
        ours = keras_layer(form)
    finally:
        keras.config.set_dtype_policy("float32")
    assert list(tf_impl.state.variables(ours)) == list(theirs.state_dict()), "names and their order"
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    rng = np.random.default_rng(0)
    count = form.get("num_layers", 1) * (1 + form.get("bidirectional", False))
    arrays = [rng.standard_normal((7, 3, 5))]
    if with_state:
        batch = 7 if form.get("batch_first") else 3
        arrays += [rng.standard_normal((count, batch, 4)) for _ in "hc"]
    return ours, theirs, arrays


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("name", FORMS)
def test_recurrent_layer_and_its_gradients(name, with_state):
    ours, theirs, arrays = recurrent_twins(FORMS[name], with_state)

    def total(y, h, c, cos, sum_):
        return sum_(y * cos(y)) + 2 * sum_(h) + 3 * sum_(c * c)

    given = [torch.from_numpy(a).requires_grad_() for a in arrays]
    y, (h, c) = theirs(given[0], tuple(given[1:]) or None)
    total(y, h, c, torch.cos, torch.sum).backward()
    tensors = [tf.constant(a) for a in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = ours(tensors[0], tuple(tensors[1:]) or None)
        value = total(found[0], *found[1], tf.cos, tf.reduce_sum)
    for a, b in zip((found[0], *found[1]), (y, h, c), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=0, atol=1e-14)
    variables = [variable for variable, _ in tf_impl.state.variables(ours).values()]
    gradients = tape.gradient(value, tensors + [v.value for v in variables])
    for a, b in zip(gradients, [g.grad for g in given] + [p.grad for p in theirs.parameters()], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-12)


def test_recurrent_layer_in_a_graph_of_any_length():
    ours, theirs, _ = recurrent_twins(FORMS["both directions"], False)
    graph = tf.function(lambda x: ours(x)[0], input_signature=[tf.TensorSpec((None, None, 5), tf.float64)])
    for length, batch in ((7, 3), (1, 1), (12, 2)):
        x = np.random.default_rng(1).standard_normal((length, batch, 5))
        expected = theirs(torch.from_numpy(x))[0].detach().numpy()
        np.testing.assert_allclose(graph(tf.constant(x)).numpy(), expected, rtol=0, atol=1e-14)


class KerasReader(keras.layers.Layer):
    """A recurrent layer as a model of tensors."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def call(self, x, h, c, lengths, training=False):
        y, (h, c) = self.lstm(x, (h, c), lengths)
        return {"y": y, "last_h": h, "last_c": c}


class TorchReader(torch.nn.Module):
    """The same."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x, h, c, lengths):
        y, (h, c) = self.lstm(x, (h, c), lengths)
        return {"y": y, "last_h": h, "last_c": c}


@pytest.mark.parametrize("name", FORMS)
def test_recurrent_layer_is_one_operator_per_layer_in_onnx(name, tmp_path):
    form, rng = FORMS[name], np.random.default_rng(0)
    theirs, ours = torch_recurrent.LSTM(5, 4, **form), keras_layer(form)
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    layers, batch_first = form.get("num_layers", 1), form.get("batch_first")
    states = (layers * (1 + form.get("bidirectional", False)), 3, 4)
    shapes = {"x": (3, 7, 5) if batch_first else (7, 3, 5), "h": states, "c": states}
    inputs = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    inputs["lengths"] = np.array([4, 7, 1])
    dynamic = {key: (None, "N") for key in ("x", "h", "c")} | ({"x": ("N",)} if batch_first else {})
    found = []
    for package, reader in ((tf_impl.export, KerasReader(ours)), (torch_impl.export, TorchReader(theirs))):
        path = package.export(reader, tmp_path / "lstm.onnx", inputs, dynamic=dynamic)
        assert onnx_file.histogram(onnx.load(path))["LSTM"] == layers
        found.append(onnx_file.run(onnx_file.session(path, threads=1), inputs))
    with torch.no_grad():
        expected = TorchReader(theirs)(*(torch.from_numpy(value) for value in inputs.values()))
    for key, value in expected.items():
        for file in found:
            np.testing.assert_allclose(file[key], value.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", [{}, {"bidirectional": True}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_lstm_reads_every_text_from_its_own_end(form):
    torch.manual_seed(0)
    theirs = torch_recurrent.LSTM(5, 4, batch_first=True, **form)
    ours = tf_impl.state.build(tf_recurrent.LSTM(4, batch_first=True, **form), {"x": ((6, 5), "float32")})
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    x, lengths = np.random.default_rng(0).standard_normal((3, 6, 5)).astype(np.float32), np.array([4, 6, 1])
    found, states = ours(tf.constant(x), lengths=tf.constant(lengths))
    found, states = found.numpy(), [state.numpy() for state in states]
    other, last = theirs(torch.tensor(x), lengths=torch.tensor(lengths))
    for a, b in zip((found, *states), (other, *last), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-6)
    for row, length in enumerate(lengths):
        alone, last = theirs(torch.tensor(x[row : row + 1, :length]))
        for state, expected in zip(states, last, strict=True):
            np.testing.assert_allclose(state[:, row], expected.detach().numpy()[:, 0], rtol=0, atol=1e-6)
        alone = alone.detach().numpy()[0]
        np.testing.assert_allclose(found[row, :length], alone, rtol=0, atol=1e-6)
        assert not found[row, length:].any()
