"""FastBERT: its classifiers, poolings, and both phases of its training."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.fastbert as tf_fastbert
import torch_impl.nlp.fastbert as torch_fastbert
from parity_tests.cases.nlp.text_classifiers import FASTBERT_REFERENCE, segments
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.text_models import BOTH, PANELS, TENSOR, fastbert
from weights import catalog, onnx_file
from weights.seeded import seeded

MODULES = (tf_fastbert, torch_fastbert)
INPUTS = segments()(np.random.default_rng(0), 4)
TARGETS = {"labels": np.array([0, 2, 1, -100])}


@BOTH
def test_uncertainty_is_the_references(which):
    expected = fingerprints.load("fastbert_small")
    given = fingerprints.inputs_of(expected)
    inputs = {ours: given[theirs] for theirs, ours in FASTBERT_REFERENCE.inputs.items()}
    panel = PANELS[which](catalog.get("fastbert_base"), FASTBERT_REFERENCE.options, precision="float32")
    panel.load(seeded(panel.shapes()))
    logits = panel.outputs(inputs)["logits"]
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](logits)))
    for i in range(3):
        for figure in compare_with_fingerprint(f"{i}", found[:, i], expected["outputs"][f"uncertainty.{i}"]):
            assert figure.relative <= 1e-5, figure


@BOTH
def test_uncertainty_is_a_share(which):
    logits = np.array([[0.0, 0, 0, 0], [1e3, 0, 0, 0], [0, 0, -1e3, -1e3]])
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](logits)))
    np.testing.assert_allclose(found, [1, 0, 0.5], atol=1e-15)
    nearly_even = 1e-4 * np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](nearly_even)))
    assert found.max() == 1, "with speed 1 every text leaves at the first layer"


def test_size_of_a_classifier():
    with torch.device("meta"):
        model = torch_fastbert.fastbert_base()
    assert sum(p.numel() for p in model.classifiers[0].parameters()) == 181_250


POOLED = {
    "first": lambda x: x[:, 0],
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(1),
    "last": lambda x: x[:, -1],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_poolings(pooling):
    panels = [fastbert(which, pooling=pooling) for which in (0, 1)]
    outputs = [panel.outputs(INPUTS)["logits"] for panel in panels]
    assert onnx_file.relative(*outputs) <= 1e-14
    gradients = [panel.gradients(INPUTS, TARGETS) for panel in panels]
    largest = max(np.abs(g).max() for g in gradients[1].values())
    for name, value in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], value, rtol=0, atol=1e-14 * largest, err_msg=name)
    state, calls = panels[1].state(), panels[1].record(INPUTS)
    seen = calls["classifiers.1.self_atten"][0][1][0]
    part = "classifiers.1.output_layer_"
    hidden = np.tanh(POOLED[pooling](seen) @ state[f"{part}1.weight"].T + state[f"{part}1.bias"])
    expected = hidden @ state[f"{part}2.weight"].T + state[f"{part}2.bias"]
    np.testing.assert_allclose(outputs[1][:, 1], expected, rtol=0, atol=1e-14)


def student(name: str) -> bool:
    return name.startswith(("classifiers.0.", "classifiers.1."))


@BOTH
@pytest.mark.parametrize("phase", ["finetune", "distill"])
def test_a_phase_has_gradients_of_its_own_parameters_only(which, phase, monkeypatch):
    panel = fastbert(which)
    real = panel._losses

    def one(*args, **kwargs):
        return {"total": real(*args, **kwargs)[phase]}

    monkeypatch.setattr(panel, "_losses", one)
    for name, value in panel.gradients(INPUTS, TARGETS).items():
        quiet = name.endswith("linear_layers.1.bias")  # softmax does not see what is added to all keys
        assert value.any() == (student(name) == (phase == "distill")) or quiet, name


@BOTH
@pytest.mark.parametrize("phase", ["finetune", "distill"])
def test_a_phase_trains_its_own_parameters_only(which, phase):
    panel = fastbert(which)
    before = panel.state()
    trainer = MODULES[which].FastBertTrainer(panel.model, phase=phase)
    assert trainer.learning_rate == {"finetune": 2e-5, "distill": 2e-4}[phase]
    decayed = {name for name, decay in trainer.optimizer.decay.items() if decay}
    assert decayed == {n for n in trainer.optimizer.parameters if not n.endswith(("bias", "gamma", "beta"))}
    losses = [trainer.step(panel.tensors(INPUTS), panel.tensors(TARGETS)) for _ in range(3)]
    after = panel.state()
    for name, value in before.items():
        assert (after[name] != value).any() == (student(name) == (phase == "distill")), name
    assert float(losses[2][phase]) < float(losses[0][phase])
    other = {"finetune": "distill", "distill": "finetune"}[phase]
    assert (float(losses[2][other]) != float(losses[0][other])) == (phase == "finetune"), "the teacher moves"


def test_both_panels_distil_alike_without_labels():
    targets = {"labels": np.full(4, -100)}
    states = []
    for which in (0, 1):
        panel = fastbert(which)
        with panel._policy():
            trainer = MODULES[which].FastBertTrainer(panel.model, phase="distill", learning_rate=2.0**-7)
        losses = [trainer.step(panel.tensors(INPUTS), panel.tensors(targets)) for _ in range(3)]
        states.append({**panel.state(), **{f"loss {i}": np.asarray(float(x["distill"])) for i, x in enumerate(losses)}})
        assert float(losses[0]["finetune"]) == 0
    for name, value in states[1].items():
        assert onnx_file.relative(states[0][name], value) <= 1e-8, name


@BOTH
def test_equal_values_are_normalised_with_a_gradient(which):
    x = np.full((1, 2, 16), 3.0)
    if which == 0:
        layer = tf_fastbert.StdLayerNorm()
        tensor = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = layer(tensor)
            total = tf.reduce_sum(y * tf.range(16, dtype=tf.float32))
        gradient = tape.gradient(total, tensor).numpy()
    else:
        layer = torch_fastbert.StdLayerNorm(16)
        tensor = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        y = layer(tensor)
        (y * torch.arange(16)).sum().backward()
        gradient = tensor.grad.numpy()
    assert not np.asarray(y.detach() if which else y).any()
    np.testing.assert_allclose(gradient[0, 0], (np.arange(16) - 7.5) / 1e-6, rtol=1e-5)
