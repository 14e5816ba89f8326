"""Learning rates, and the optimisers of text models, in both panels."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.bert_adam as tf_adam
import torch_impl.nlp.bert_adam as torch_adam
from parity_tests.cases.nlp.text_classifiers import sentences as words
from parity_tests.cases.nlp.transformer import sentences
from parity_tests.text_models import BOTH, TENSOR, textcnn, transformer

SCHEDULES = {  # module, options, steps, rates, bound of their relative error
    "linear_warmup": ("nlp.bert_adam", (1.0, 4, 20), (0, 1, 3, 4, 10, 20, 25), (0, 0.25, 0.75, 0.8, 0.5, 0, 0), 1e-15),
    "inverse_sqrt_warmup": (
        *("nlp.transformer", (), (1, 4000, 16000)),
        *((512**-0.5 * 4000**-1.5, (512 * 4000) ** -0.5, (512 * 4000) ** -0.5 / 2), 1e-14),
    ),
    "inverse_sqrt_warmup-scaled": ("nlp.transformer", (1024, 200, 2.0), (100,), (2 / 32 * 100 * 200**-1.5,), 1e-14),
    "linear_decay": (
        *("gan.pix2pix", (), (0, 50, 99, 100, 149, 199)),
        *((1, 1, 1, 1 - 1 / 101, 1 - 50 / 101, 1 - 100 / 101), 1e-7),
    ),
}


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate(name, package):
    module, options, steps, expected, bound = SCHEDULES[name]
    rate = getattr(importlib.import_module(f"{package}.{module}"), name.partition("-")[0])
    np.testing.assert_allclose([rate(step, *options) for step in steps], expected, rtol=bound)


@BOTH
def test_optimiser_is_googles(which):
    """No correction of the moments, decay outside them and not for biases and normalisation, one norm for all."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(3) for name in ("a.weight", "a.bias", "a.LayerNorm.weight")}
    gradients = [{name: scale * rng.standard_normal(3) for name in values} for scale in (5.0, 0.1)]
    if which:
        parameters = {name: torch.tensor(value) for name, value in values.items()}
        optimiser = torch_adam.BertAdam(parameters)
    else:
        parameters = {name: tf.Variable(value) for name, value in values.items()}
        optimiser = tf_adam.BertAdam(parameters)
    moments = {name: (np.zeros(3), np.zeros(3)) for name in values}
    for given in gradients:
        optimiser.step({n: TENSOR[which](g) for n, g in given.items()}, 0.25)
        norm = np.sqrt(sum((g**2).sum() for g in given.values()))
        for name, g in given.items():
            g = g / max(norm, 1.0)
            m, v = moments[name]
            m, v = moments[name] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            decay = 0.01 if name == "a.weight" else 0.0
            values[name] = values[name] - 0.25 * (m / (np.sqrt(v) + 1e-6) + decay * values[name])
    for name, value in values.items():
        np.testing.assert_allclose(parameters[name].numpy(), value, rtol=1e-13)


@BOTH
def test_trainer_takes_the_first_step_of_adam(which):
    """The first update is the rate times the sign of the gradient."""
    panel = transformer(which)
    inputs, labels = sentences()(np.random.default_rng(0), 2), np.full((2, 6), 5)
    before = panel.state()
    trainer = panel.trainer(panel.model, warmup=4, factor=2.0)
    trainer.step(panel.tensors(inputs), panel.tensors({"labels": labels}))
    moved = panel.state()["model.decoder.layers.1.fc2.weight"] - before["model.decoder.layers.1.fc2.weight"]
    assert np.abs(moved).max() == pytest.approx(2 / 4 * 4**-1.5, rel=1e-4)


@BOTH
def test_a_step_is_adadelta_then_the_bound_and_the_padding(which):
    inputs = words()(np.random.default_rng(0), 2)
    panel = textcnn(which)
    start = panel.state()
    start["fc1.weight"] = start["fc1.weight"] * np.array([[9.0], [0.1], [9.0]])
    panel.load(start)
    targets = {"labels": np.array([0, 2])}
    gradients, again = [], textcnn(which)
    again.load(start)
    sums = {name: [np.zeros_like(value), np.zeros_like(value)] for name, value in start.items()}
    state = dict(start)
    for _ in range(2):
        again.load(state)
        gradients = again.gradients(inputs, targets)
        for name, g in gradients.items():
            squares, steps = sums[name]
            squares[:] = 0.95 * squares + 0.05 * g**2
            step = -np.sqrt(steps + 1e-6) / np.sqrt(squares + 1e-6) * g
            steps[:] = 0.95 * steps + 0.05 * step**2
            state[name] = state[name] + step
        norm = np.sqrt((state["fc1.weight"] ** 2).sum(1, keepdims=True))
        state["fc1.weight"] = state["fc1.weight"] * np.minimum(norm, 3) / (1e-7 + norm)
        state["embed.weight"][0] = 0
    panel.train(inputs, targets, 0.0, steps=2)
    found = panel.state()
    for name, value in state.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)
    norms = np.sqrt((found["fc1.weight"] ** 2).sum(1))
    np.testing.assert_allclose(norms[0], 3, rtol=1e-6)
    assert norms[1] < 1 and start["embed.weight"][0].any() and not found["embed.weight"][0].any()
