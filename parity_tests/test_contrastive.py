"""Contrastive systems against literal numbers, and whole training-mode steps of other implementations."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.losses.contrastive as tf_losses
import tf_impl.training.lars as tf_lars
import torch_impl.losses.contrastive as torch_losses
import torch_impl.training.lars as torch_lars
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_metric import BOTH, f, near
from torch_impl.contrastive import byol as schedules
from weights import catalog

LOSSES = {TensorFlow: tf_losses, PyTorch: torch_losses}
TENSOR = {TensorFlow: tf.constant, PyTorch: torch.tensor}
CRITERIA = {  # output of the file -> model, criterion, keys of its outputs by input, gradients by input
    "simclr_official_T0.1": ("simclr_v1", {}, {"z1": "z1", "z2": "z2"}),
    "simclr_pml_T0.5": ("simclr_v1", {"temperature": 0.5, "reduction": "mean"}, {"z1": "z1", "z2": "z2"}),
    "byol": ("byol", {}, {"p1": "p1", "p2": "p2", "z1": "z1", "z2": "z2"}),
    "simsiam": ("simsiam", {}, {"p1": "p1", "p2": "p2", "z1": "z1", "z2": "z2"}),
    "swav_4crops_bs3": ("swav", {}, {"scores": "prototype_scores"}),
}


def stored():
    expected = fingerprints.load("self_supervised_losses")
    return (
        {name: np.reshape(np.asarray(v["data"], np.float64), v["shape"]) for name, v in expected[part].items()}
        for part in ("inputs", "outputs")
    )


def criterion_of(panel, model, options):
    """The criterion of a model, without the model."""
    entry = catalog.get(model)
    module = __import__(f"{panel.package}.{entry.module}", fromlist=["_"])
    return getattr(module, entry.criterion)(**options)


def lowered(panel, criterion, outputs):
    """Total loss and its gradient by output."""
    if panel is PyTorch:
        outputs = {name: torch.tensor(value, requires_grad=True) for name, value in outputs.items()}
        total = criterion(outputs, {})["total"]
        gradients = torch.autograd.grad(total, list(outputs.values()), allow_unused=True)
        return total.item(), dict(zip(outputs, gradients, strict=True))
    outputs = {name: tf.constant(value) for name, value in outputs.items()}
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        total = criterion(outputs, {})["total"]
    return total.numpy(), tape.gradient(total, outputs)


@pytest.fixture(autouse=True)
def double(monkeypatch):
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@BOTH
@pytest.mark.parametrize("name", CRITERIA)
def test_literal_losses_and_gradients(panel, name):
    model, options, keys = CRITERIA[name]
    inputs, outputs = stored()
    crops = inputs["prototype_scores"].reshape(4, 3, -1).swapaxes(0, 1)  # the file has one crop after the other
    given = {k: crops if v == "prototype_scores" else inputs[v] for k, v in keys.items()}
    total, gradients = lowered(panel, criterion_of(panel, model, options), given)
    near(total, outputs[name])
    for ours, theirs in keys.items():
        if f"{name}.grad_{theirs}" in outputs:
            found, wanted = np.asarray(gradients[ours]), outputs[f"{name}.grad_{theirs}"]
            near(np.concatenate(found.swapaxes(0, 1)) if found.ndim == 3 else found, wanted)


@BOTH
def test_vectors(panel):
    z = f(8, 5, 0.9, 0.11)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    z1, z2 = z[:4], z[4:]
    simclr = criterion_of(panel, "simclr_v1", {})
    np.testing.assert_allclose(lowered(panel, simclr, {"z1": z1, "z2": z2})[0], 3.3460757951, rtol=1e-9)
    outputs = {"p1": z1, "p2": z1, "z1": z2, "z2": z2}
    np.testing.assert_allclose(lowered(panel, criterion_of(panel, "byol", {}), outputs)[0], 1.4608424692, rtol=1e-9)
    queue = f(5, 6, 0.61, 0.11)
    logits = np.concatenate([(z1 * z2).sum(1, keepdims=True), z1 @ (queue / np.linalg.norm(queue, axis=0))], 1)
    for temperature, value in ((0.07, 0.0115821713), (0.2, 0.3586728696)):
        total = lowered(panel, criterion_of(panel, "moco_v1", {}), {"logits": logits / temperature})[0]
        np.testing.assert_allclose(total, value, rtol=1e-8)
    prototypes = f(3, 5, 1.7, 0.11)
    scores = z @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    q = np.asarray(LOSSES[panel].sinkhorn(TENSOR[panel](scores)))
    np.testing.assert_allclose(q[0], [1.3455046365e-4, 4.5435881315e-8, 0.9998654041], rtol=1e-9)
    np.testing.assert_allclose(q.sum(0), [2.4928896547, 2.5031736096, 3.0039367361], rtol=1e-9)


@BOTH
def test_sinkhorn(panel):
    inputs, outputs = stored()
    scores, sinkhorn = TENSOR[panel](inputs["prototype_scores"]), LOSSES[panel].sinkhorn
    near(np.asarray(sinkhorn(scores)), outputs["sinkhorn"])
    near(np.asarray(sinkhorn(scores, 0.03, 5)), outputs["sinkhorn_eps0.03_it5"])
    for i in (0, 1):
        near(np.asarray(sinkhorn(scores[3 * i : 3 * i + 3])), outputs[f"swav_q.{i}"])


@BOTH
@pytest.mark.parametrize("form, excluded", [("simclr", True), ("larc", False)])
def test_lars(panel, form, excluded):
    """Two steps against the formulas."""
    rng = np.random.default_rng(0)
    w, b, gradients = rng.standard_normal((3, 4)), rng.standard_normal(4), rng.standard_normal((2, 16))
    expected, velocity = [w.copy(), b.copy()], [0, 0]
    for g in gradients:
        for i, part in enumerate((g[:12].reshape(3, 4), g[12:])):
            p, scale = expected[i], 1.0
            if not (excluded and i):
                length, steep = np.linalg.norm(p), np.linalg.norm(part + 0.1 * p if form == "simclr" else part)
                scale = 0.001 * length / (steep if form == "simclr" else steep + 0.1 * length + 1e-8)
                part = (part + 0.1 * p) * scale
            velocity[i] = 0.9 * velocity[i] + (0.5 * part if form == "simclr" else part)
            expected[i] = p - (velocity[i] if form == "simclr" else 0.5 * velocity[i])
    options = {"lr": 0.5, "weight_decay": 0.1, "form": form, "exclude_vectors": excluded}
    if panel is PyTorch:
        params = [torch.nn.Parameter(torch.tensor(x)) for x in (w, b)]
        optimizer = torch_lars.LARS(params, **options)
        for g in gradients:
            params[0].grad, params[1].grad = torch.tensor(g[:12].reshape(3, 4)), torch.tensor(g[12:])
            optimizer.step()
        found = [p.detach().numpy() for p in params]
    else:
        params = [tf.Variable(x) for x in (w, b)]
        optimizer = tf_lars.LARS(params, **options)
        for g in gradients:
            optimizer.step([tf.constant(g[:12].reshape(3, 4)), tf.constant(g[12:])])
        found = [p.numpy() for p in params]
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_momentum_of_the_target():
    assert [schedules.target_momentum(k, 100) for k in (0, 50, 100)] == pytest.approx([0.996, 0.998, 1.0])
