"""Ways of using a trained image generator, and the receptive field of its discriminator's patches."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.gan.pix2pix as tf_pix2pix
import torch_impl.gan.pix2pix as torch_pix2pix
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file
from weights.seeded import seeded

PANELS = {"tensorflow": (TensorFlow, tf_pix2pix), "pytorch": (PyTorch, torch_pix2pix)}
MODULES = pytest.mark.parametrize("module", [tf_pix2pix, torch_pix2pix], ids=PANELS)
MODES = ("train_stats", "eval")


def small_generator(module, dropout=0.5):
    """A generator with seeded weights, and images, in the layout of its panel."""
    images = np.clip(np.random.default_rng(0).standard_normal((2, 3, 64, 128)), -1, 1)
    cls = TensorFlow if module is tf_pix2pix else PyTorch
    options = {"num_downs": 6, "width": 4, "dropout": dropout}
    panel = cls(catalog.get("unet_256"), options, precision="float32")
    panel.load(seeded(panel.shapes()))
    return panel, panel.tensors({"A": images})["A"]


@MODULES
def test_translate_leaves_the_generator_as_it_was(module):
    panel, images = small_generator(module)
    before = panel.state()
    for mode in ("train_stats", "eval"):
        module.translate(panel.model, images, mode)
    for name, value in panel.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@MODULES
def test_translate_keeps_dropout_and_batch_statistics_unless_told_otherwise(module):
    panel, images = small_generator(module)
    found = {mode: [np.asarray(module.translate(panel.model, images, mode)) for _ in "ab"] for mode in MODES}
    assert not np.array_equal(*found["train_stats"]), "dropout is at work"
    np.testing.assert_array_equal(*found["eval"])
    panel, images = small_generator(module, dropout=0.0)
    found = {mode: [np.asarray(module.translate(panel.model, images, mode)) for _ in "ab"] for mode in MODES}
    np.testing.assert_array_equal(*found["train_stats"])
    assert onnx_file.relative(found["train_stats"][0], found["eval"][0]) > 0.01, "other statistics"


def test_both_panels_translate_alike():
    for mode in MODES:
        (a, b) = (small_generator(module, 0.0) for module in (tf_pix2pix, torch_pix2pix))
        ours = tf_pix2pix.translate(a[0].model, a[1], mode).numpy().transpose(0, 3, 1, 2)
        assert onnx_file.relative(ours, torch_pix2pix.translate(b[0].model, b[1], mode).numpy()) < 1e-5


@MODULES
def test_wrong_use_is_named(module):
    panel, images = small_generator(module)
    with pytest.raises(ValueError, match="mode='test' must be 'train_stats' or 'eval'"):
        module.translate(panel.model, images, "test")
    with pytest.raises(ValueError, match="norm='layer' must be one of"):
        module.unet_256(norm="layer")
    with pytest.raises(ValueError, match="num_downs=4 must be 5 or more"):
        module.UnetGenerator(num_downs=4)
    odd = tf.zeros((1, 64, 65, 3)) if module is tf_pix2pix else torch.zeros(1, 3, 64, 65)
    with pytest.raises(ValueError, match=r"64, 65\)?.*height and width must be multiples of 64"):
        panel.model(odd)


@MODULES
def test_patches_see_seventy_pixels(module):
    """The middle logit's gradient reaches exactly 70 x 70 pixels of the pair."""
    cls = TensorFlow if module is tf_pix2pix else PyTorch
    pair = np.random.default_rng(0).standard_normal((1, 6, 128, 136))
    panel = cls(catalog.get("patchgan_70"), {"width": 4}, precision="float64")
    panel.load(seeded(panel.shapes()))
    images = panel.tensors({"pair": pair})["pair"]
    if cls is PyTorch:
        images.requires_grad_()
        panel.model(images)[0, 0, 7, 8].backward()
        gradient = images.grad[0].abs().sum(0).numpy()
    else:
        with tf.GradientTape() as tape:
            tape.watch(images)
            logit = panel.model(images)[0, 7, 8, 0]
        gradient = np.abs(tape.gradient(logit, images)[0]).sum(-1)
    reached = np.argwhere(gradient > 0)
    assert np.ptp(reached, axis=0).tolist() == [69, 69]
