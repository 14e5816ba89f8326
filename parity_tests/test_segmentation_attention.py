"""Attention of PSANet, CCNet and EMANet by itself, in both panels, against the operators of the reference."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.state
import torch_impl.state
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from weights.seeded import seeded

PACKAGES = ("tf_impl", "torch_impl")
packages = pytest.mark.parametrize("package", PACKAGES)


def in_layout(package: str, x: np.ndarray):
    """A tensor of the panel's own layout from an NCHW array."""
    return torch.from_numpy(x) if package == "torch_impl" else tf.constant(x.transpose(0, 2, 3, 1))


def nchw(package: str, x) -> np.ndarray:
    x = np.asarray(x.detach() if package == "torch_impl" else x)
    return x if package == "torch_impl" else x.transpose(0, 3, 1, 2)


@packages
@pytest.mark.parametrize("rows, columns", [(3, 4), (7, 6), (9, 13)])
def test_masks_of_places_are_those_of_the_reference(package, rows, columns):
    expected = fingerprints.load(f"mmcv_psamask_{rows}x{columns}")
    x = fingerprints.inputs_of(expected)["x"]
    psa_mask = importlib.import_module(f"{package}.segmentation.psanet").psa_mask
    for psa_type, described in expected["outputs"].items():
        found = np.asarray(psa_mask(in_layout(package, x), (rows, columns), psa_type))
        assert described["shape"] == [len(x), found.shape[1], *x.shape[2:]]
        at = np.unique(np.round(np.linspace(0, found.size - 1, len(described["values"])))).astype(int)
        np.testing.assert_allclose(found.ravel()[at], described["values"], rtol=1e-6, err_msg=psa_type)
        np.testing.assert_allclose(found.mean(), described["mean"], rtol=1e-5)


@packages
def test_criss_cross_attention_is_that_of_the_authors(package, double_precision):
    expected = fingerprints.load("ccnet_official_criss_cross_attention")
    x = fingerprints.inputs_of(expected)["x"]
    attention = importlib.import_module(f"{package}.segmentation.ccnet").CrissCrossAttention
    if package == "tf_impl":
        layer, state = tf_impl.state.build(attention(32), {"x": ((5, 7, 32), "float64")}), tf_impl.state
    else:
        layer, state = attention(32).double(), torch_impl.state
    values = seeded({name: tuple(shape) for name, shape in expected["tensors"]})
    values["gamma.scale"] = values.pop("gamma")[0]
    state.load_state_dict(layer, values)
    if package == "tf_impl":
        with tf.GradientTape() as tape:
            once = layer(in_layout(package, x))
            twice = layer(once)
            loss = tf.reduce_mean(tf.square(twice))
        found = tape.gradient(loss, [variable.value for variable, _ in tf_impl.state.variables(layer).values()])
        norms = dict(zip(tf_impl.state.variables(layer), (np.linalg.norm(g) for g in found), strict=True))
    else:
        once = layer(in_layout(package, x))
        twice = layer(once)
        loss = twice.square().mean()
        loss.backward()
        norms = {name: float(p.grad.norm()) for name, p in layer.named_parameters()}
    for name, value in {"once": once, "twice": twice}.items():
        figures = compare_with_fingerprint(name, nchw(package, value), expected["outputs"][name])
        assert max(figure.relative for figure in figures) < 1e-6
    assert float(loss) == pytest.approx(expected["loss"]["terms"]["mean_square"], rel=1e-6)
    for name, (norm, _) in expected["loss"]["gradients"].items():
        ours = "gamma.scale" if name == "gamma" else name
        assert norms[ours] == pytest.approx(norm, rel=1e-5, abs=1e-6), name  # a key's bias moves all scores alike


@packages
def test_bases_of_a_batch_move_the_next_start(package, double_precision):
    unit, x = importlib.import_module(f"{package}.segmentation.emanet").EMAUnit, np.random.default_rng(0)
    x = x.standard_normal((2, 4, 5, 3))
    if package == "tf_impl":
        layer = tf_impl.state.build(unit(4, 3), {"x": ((5, 3, 4), "float64")})
        before = layer.mu.numpy()
        _, bases = layer(in_layout(package, x), training=True)
    else:
        layer = unit(4, 3).double()
        before = layer.mu.numpy().copy()
        _, bases = layer(in_layout(package, x))
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(layer.mu.numpy(), 0.9 * before + 0.1 * np.asarray(bases).mean(0, keepdims=True))
