"""What a Keras user does with a model works: files, copies, compiled training, summaries, functional reuse."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_impl.state
from parity_tests.harness.case import cases
from parity_tests.harness.panels import TensorFlow


def _classifiers() -> dict:
    """One case of every module of the family."""
    found = {}
    for case in cases().values():
        if case.entry.family == "classification":
            found.setdefault(case.entry.module.partition(".")[2], case)
    return found


CLASSIFIERS = _classifiers()
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.module(case.entry.module)) for name, case in CLASSIFIERS.items()]
)


def made(name):
    """A small model in single precision, and two images."""
    case = CLASSIFIERS[name]
    inputs = case.inputs(np.random.default_rng(0), 2)
    panel = TensorFlow(case.entry, case.options, precision="float32", example=inputs)
    return panel.model, tf.constant(inputs["images"].transpose(0, 2, 3, 1).astype(np.float32))


def equal(found, expected):
    for x, y in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_array_equal(x, y)


@each
def test_a_saved_model_and_a_copy_give_the_same_numbers(name, tmp_path):
    model, images = made(name)
    expected = model(images, training=False)
    model.save(tmp_path / "model.keras")
    for _ in range(2):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        equal(loaded(images, training=False), expected)
        loaded.save(tmp_path / "model.keras")
    copy = type(model).from_config(model.get_config())
    tf_impl.state.build(copy)
    copy.set_weights(model.get_weights())
    equal(copy(images, training=False), expected)


@each
def test_layers_are_named_after_their_attributes(name):
    model, _ = made(name)
    lines = []
    model.summary(print_fn=lines.append)
    assert not [layer.name for layer in model.layers if re.fullmatch(r"(conv2d|sequential)(_\d+)?", layer.name)]


@each
def test_training_compiles_with_xla(name):
    model, images = made(name)
    outputs = model(images, training=False)
    heads = outputs if isinstance(outputs, dict) else {"output": outputs}
    labels = {key: np.zeros(2, np.int64) for key in heads}
    loss = {key: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for key in heads}
    single = not isinstance(outputs, dict)
    model.compile("sgd", loss["output"] if single else loss, jit_compile=True)
    history = model.fit(images, labels["output"] if single else labels, batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@each
def test_a_model_is_a_layer_of_another_with_unknown_height_and_width(name):
    model, images = made(name)
    expected = model(images, training=False)
    given = keras.Input((None, None, 3))
    outer = keras.Model(given, model(given, training=False))
    found = outer(images, training=False)
    for x, y in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
