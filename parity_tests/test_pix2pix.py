"""pix2pix: one alternating step against the reference's numbers, and the ways of using a trained generator."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.gan.pix2pix as tf_pix2pix
import torch_impl.gan.pix2pix as torch_pix2pix
from parity_tests.harness import fingerprints
from parity_tests.harness.case import cases
from parity_tests.harness.measure import compare, compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file
from weights.seeded import seeded

pytestmark = pytest.mark.xdist_group("pix2pix")  # one worker takes the step
FINGERPRINT = fingerprints.load("pix2pix_step")
PANELS = {"tensorflow": (TensorFlow, tf_pix2pix), "pytorch": (PyTorch, torch_pix2pix)}
MODULES = pytest.mark.parametrize("module", [tf_pix2pix, torch_pix2pix], ids=PANELS)
MODES = ("train_stats", "eval")
TERMS = {"D_fake": "D_fake", "D_real": "D_real", "loss_D": "D", "G_GAN": "G_GAN", "G_L1": "G_L1", "loss_G": "G"}
# relative L2, in float64; the file was computed in float32, whose gradients are up to 1e-3 from the exact ones
GRADIENTS = 1e-3
# Adam's first step moves every weight by the learning rate, after the sign of a gradient that may be rounding
UPDATED = {"fake_B_after_G_update": 1e-2}


class Seen:
    """A criterion that keeps what it is given."""

    def __init__(self, criterion):
        self.criterion, self.tensors = criterion, {}

    def discriminator(self, pred_fake, pred_real):
        self.tensors |= {"pred_fake": pred_fake, "pred_real": pred_real}
        return self.criterion.discriminator(pred_fake, pred_real)

    def generator(self, pred_fake, fake_B, B):
        self.tensors |= {"pred_fake_after_D_update": pred_fake, "fake_B": fake_B}
        return self.criterion.generator(pred_fake, fake_B, B)


def nchw(panel, tensors):
    """Arrays of tensors; maps as NCHW."""
    arrays = {name: np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for name, x in tensors.items()}
    moved = panel.package == "tf_impl"
    return {name: x.transpose(0, 3, 1, 2) if moved and x.ndim == 4 else x for name, x in arrays.items()}


@pytest.fixture(scope="module", params=PANELS)
def step(request):
    """One step of a panel on the fingerprint's pictures: the panel, losses, tensors on the way, gradient norms."""
    cls, module = PANELS[request.param]
    pictures = {name: np.clip(values, -1, 1) for name, values in fingerprints.inputs_of(FINGERPRINT).items()}
    panel = cls(catalog.get("pix2pix"), {"num_downs": 7, "dropout": 0.0}, precision="float64")
    panel.load(seeded(panel.shapes()))
    if cls is PyTorch:
        panel.model.train()
    seen = Seen(panel.criterion)
    trainer = module.Pix2PixTrainer(panel.model, seen)
    tensors = panel.tensors(pictures)
    losses = panel.arrays(trainer.step(tensors, tensors))
    norms = {name: float(np.linalg.norm(np.asarray(g).astype(np.float64))) for name, g in trainer.gradients.items()}
    found = seen.tensors | {"fake_B_after_G_update": module.translate(panel.model.netG, tensors["A"])}
    found = nchw(panel, found) | {f"{name}.after": value for name, value in panel.state().items()}
    return panel, losses, found, norms


def test_names_are_the_references(step):
    panel = step[0]
    assert panel.shapes() == {name: tuple(shape) for name, shape in FINGERPRINT["tensors"]}
    if isinstance(panel, PyTorch):
        assert panel.parameters() == FINGERPRINT["parameters"]


def test_losses_are_the_references(step):
    losses = step[1]
    for theirs, ours in TERMS.items():
        np.testing.assert_allclose(losses[ours], FINGERPRINT["loss"]["terms"][theirs], rtol=1e-4, err_msg=theirs)
    np.testing.assert_allclose(losses["total"], losses["D"] + losses["G"], rtol=1e-6)


@pytest.mark.parametrize("name", FINGERPRINT["outputs"])
def test_pictures_logits_buffers_and_weights_are_the_references(step, name):
    for figure in compare_with_fingerprint(name, step[2][name], FINGERPRINT["outputs"][name]):
        assert figure.relative <= UPDATED.get(name, 1e-4), figure


def test_gradients_are_the_references(step):
    norms = step[3]
    expected = FINGERPRINT["loss"]["gradients"]
    assert set(expected) <= set(norms) and len(norms) == len(parameters())
    for player in ("netD", "netG"):
        largest = max(norm for name, (norm, _) in expected.items() if name.startswith(player))
        for name, (norm, _) in expected.items():
            if name.startswith(player):
                assert abs(norms[name] - norm) <= GRADIENTS * max(norm, 1e-3 * largest), name


def parameters():
    """Names of all parameters of the step's networks."""
    with torch.device("meta"):
        return [name for name, _ in torch_pix2pix.pix2pix(num_downs=7, dropout=0.0).named_parameters()]


def test_discriminator_is_updated_before_the_generator_meets_it(step):
    """The bound tells the two orders apart: the logits move by much more."""
    found = step[2]
    moved = onnx_file.relative(found["pred_fake"], found["pred_fake_after_D_update"])
    assert moved > 0.1
    assert int(found["netD.model.3.num_batches_tracked.after"]) == 3, "fake, real, and fake once more"
    assert int(found["netG.model.model.1.model.2.num_batches_tracked.after"]) == 1, "translate leaves no trace"


# relative L2 of the worst gradient norm; that of unet_256 has float32's rounding in the file itself
@pytest.mark.parametrize("name, bound", [("unet_128", 1e-5), ("unet_256-instance", 1e-5), ("unet_256", 2e-4)])
def test_gradients_of_generators_in_float64(name, bound):
    """Where no ReLU changes sides by rounding, the figures are those of the stored digits."""
    case = cases()[name]
    (reference,) = case.references
    expected = fingerprints.load(f"{reference.file}")
    (pictures,) = fingerprints.inputs_of(expected).values()
    found = {}
    for package, (cls, _) in PANELS.items():
        panel = cls(case.entry, reference.options)
        panel.load(seeded(panel.shapes()))
        gradients = panel.gradients({"A": pictures}, reference.targets(expected))
        found[package] = {tensor: np.linalg.norm(gradient) for tensor, gradient in gradients.items()}
    stored = {tensor: norm for tensor, (norm, _) in expected["loss"]["gradients"].items()}
    largest = max(stored.values())
    for figure in compare(found["tensorflow"], found["pytorch"], floor=1e-6 * largest):
        assert figure.relative <= 1e-9, figure
    for figure in compare({tensor: found["pytorch"][tensor] for tensor in stored}, stored, floor=1e-3 * largest):
        assert figure.relative <= bound, figure


# using a generator


def small_generator(module, dropout=0.5):
    """A generator of seeded weights, and pictures, in the layout of its panel."""
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
def test_learning_rate_is_constant_and_then_falls_to_zero(module):
    factors = [module.linear_decay(epoch) for epoch in (0, 50, 99, 100, 149, 199)]
    np.testing.assert_allclose(factors, [1, 1, 1, 1 - 1 / 101, 1 - 50 / 101, 1 - 100 / 101])


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
