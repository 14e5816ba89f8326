"""Bayesian SegNet: only dropout changes the network's output."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.segmentation.segnet as tf_segnet
import torch_impl.segmentation.segnet as torch_segnet

SMALL = {"widths": (4, 4, 4, 8, 8), "num_classes": 3}


def asked(panel, dropout, samples=8):
    """Probabilities (N, K, H, W), variance, and the model's answer before and after."""
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    if panel == "pytorch":
        torch.manual_seed(0)
        model, images = torch_segnet.bayesian_segnet_vgg16(dropout, **SMALL).eval(), torch.tensor(images)
        before = model(images)["logits"]
        p, variance = torch_segnet.uncertainty(model, images, samples)
        return p.numpy(), variance.numpy(), before.detach().numpy(), model(images)["logits"].detach().numpy()
    tf.keras.utils.set_random_seed(0)
    model = tf_segnet.bayesian_segnet_vgg16(dropout, **SMALL)
    images = tf.constant(images.transpose(0, 2, 3, 1))
    before = model(images)["logits"]
    p, variance = tf_segnet.uncertainty(model, images, samples)
    return p.numpy().transpose(0, 3, 1, 2), variance.numpy(), before.numpy(), model(images)["logits"].numpy()


@pytest.mark.parametrize("panel", ["tensorflow", "pytorch"])
def test_uncertainty_comes_from_dropout_alone(panel):
    p, variance, before, after = asked(panel, 0.5)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert variance.shape == (1, 32, 32) and variance.max() > 1e-8
    np.testing.assert_array_equal(before, after)
    p, variance, before, after = asked(panel, 0.0)
    assert variance.max() < 1e-10


@pytest.mark.parametrize("panel", ["tensorflow", "pytorch"])
def test_without_dropout_the_mean_is_the_answer(panel):
    p, _, before, _ = asked(panel, 0.0, samples=2)
    logits = before.transpose(0, 3, 1, 2) if panel == "tensorflow" else before
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-4)
