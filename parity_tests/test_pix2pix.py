"""pix2pix: one alternating step, and generators' gradients, against the reference's numbers."""

import numpy as np
import pytest
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
    """One step of a panel on the fingerprint's images: the panel, losses, tensors on the way, gradient norms."""
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
