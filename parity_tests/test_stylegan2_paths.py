"""StyleGAN2's path lengths in float64: they are derivatives, and their penalty has the same gradient in both panels."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.gan.stylegan2 as tf_stylegan2
import tf_impl.state
import torch_impl.gan.stylegan2 as torch_stylegan2
from parity_tests.cases.gan.stylegan2 import SMALL, VECTORS, training
from parity_tests.harness.measure import compare
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

PANELS = {"tensorflow": TensorFlow, "pytorch": PyTorch}


@pytest.fixture(scope="module")
def found():
    """Of each panel: the synthesis network as a function of arrays, lengths and gradient, penalty, its gradients."""
    given = training(np.random.default_rng(0), 2)
    ws = 0.3 * np.random.default_rng(1).standard_normal((2, 6, VECTORS["w_dim"]))
    noise, direction = given["noise"][:, 1], given["direction"]
    results = {}
    for name, cls in PANELS.items():
        panel = cls(catalog.get("stylegan2_256"), {**SMALL, **VECTORS}, precision="float64", example=given)
        panel.load(seeded(panel.shapes()))
        trainer = panel.trainer(panel.model, panel.criterion)
        synthesis = panel.model.generator.synthesis
        if cls is PyTorch:
            module, tensors = torch_stylegan2, [torch.from_numpy(x) for x in (ws, direction, noise)]
            penalty = trainer.path_loss(*tensors)
            wanted = {n: p for n, p in synthesis.named_parameters() if p.requires_grad}
            values = torch.autograd.grad(penalty, list(wanted.values()), allow_unused=True)
            gradients = {n: np.zeros(p.shape) if g is None else g.numpy() for (n, p), g in zip(wanted.items(), values)}
        else:
            module = tf_stylegan2
            tensors = [tf.constant(x) for x in (ws, direction.transpose(0, 2, 3, 1), noise)]
            with tf.GradientTape() as tape:
                penalty = trainer.path_loss(*tensors)
            wanted = tf_impl.state.trainable(synthesis)
            values = tape.gradient(penalty, [v.value for v, _ in wanted.values()], unconnected_gradients="zero")
            gradients = {
                n: tf_impl.state.to_torch(tf.convert_to_tensor(g).numpy(), axes)
                for (n, (_, axes)), g in zip(wanted.items(), values)
            }
        lengths, gradient = module.path_lengths(synthesis, *tensors)
        results[name] = {
            "lengths": np.asarray(lengths.detach() if cls is PyTorch else lengths),
            "gradient": np.asarray(gradient.detach() if cls is PyTorch else gradient),
            "penalty": np.asarray(float(penalty)),
            "gradients": gradients,
            "mean": float(trainer.mean_length),
            "synthesis": synthesis,
        }
    return results, ws, noise, direction


def test_gradients_of_styles_are_central_differences(found):
    results, ws, noise, direction = found
    synthesis = results["pytorch"]["synthesis"]
    step = 1e-5 * np.random.default_rng(2).standard_normal(ws.shape)

    def moved(ws):
        with torch.no_grad():
            image = synthesis(torch.from_numpy(ws), torch.from_numpy(noise)).numpy()
        return (image * direction).sum() / 16  # the root of 16 x 16 pixels

    expected = (moved(ws + step) - moved(ws - step)) / 2
    for panel in results.values():
        np.testing.assert_allclose((panel["gradient"] * step).sum(), expected, rtol=1e-6)


def test_lengths_are_those_of_the_formula(found):
    for panel in found[0].values():
        expected = np.sqrt(np.square(panel["gradient"]).sum(2).mean(1))
        np.testing.assert_allclose(panel["lengths"], expected, rtol=1e-12)
        mean = 0.01 * expected.mean()  # of 0 at first
        np.testing.assert_allclose(panel["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(panel["penalty"], 2 * np.square(expected - mean).mean(), rtol=1e-12)


def test_both_panels_have_the_same_penalty_and_gradients(found):
    ours, theirs = found[0].values()
    values = ("lengths", "gradient", "penalty")
    for figure in compare({n: ours[n] for n in values}, {n: theirs[n] for n in values}):
        assert figure.relative <= 1e-10, figure
    largest = max(np.linalg.norm(g) for g in theirs["gradients"].values())
    assert largest > 0 and ours["gradients"].keys() == theirs["gradients"].keys()
    for figure in compare(ours["gradients"], theirs["gradients"], floor=1e-6 * largest):
        assert figure.relative <= 1e-9, figure
