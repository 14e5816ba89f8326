"""Penalties on the gradient of a discriminator: analytic cases, and the numbers of third-party implementations.

They are differentiated twice, which ONNX has no place for, so that no level of the proof holds them but the trainers'.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.gan.stargan as tf_stargan
import tf_impl.losses.adversarial as tf_adversarial
import torch_impl.gan.stargan as torch_stargan
import torch_impl.losses.adversarial as torch_adversarial
from parity_tests.cases.gan.stargan import C5, C8
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare, compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

PANELS = {"tensorflow": (TensorFlow, tf_adversarial), "pytorch": (PyTorch, torch_adversarial)}
EACH_PANEL = pytest.mark.parametrize("package", PANELS)
VALUES, GRADIENTS = 1e-4, 1e-3  # bounds of the proof's reference level


def tensor(package, array, dtype="float64"):
    array = np.asarray(array, dtype)
    return tf.constant(array) if package == "tensorflow" else torch.from_numpy(array)


# analytic


@EACH_PANEL
def test_penalties_of_a_linear_critic(package):
    """D(x) = sum(w x) has the gradient w everywhere."""
    adversarial = PANELS[package][1]
    w = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
    w_tensor, x_tensor = tensor(package, w), tensor(package, x)
    norm = np.linalg.norm(w)
    gradient = adversarial.input_gradient(lambda x: w_tensor * x, x_tensor)
    np.testing.assert_allclose(np.asarray(gradient), np.repeat(w, 2, 0))
    penalty = adversarial.gradient_penalty(lambda x: w_tensor * x, x_tensor)
    np.testing.assert_allclose(float(penalty), (norm - 1) ** 2)
    np.testing.assert_allclose(float(adversarial.r1_penalty(lambda x: w_tensor * x, x_tensor)), norm**2)


@EACH_PANEL
def test_penalty_has_a_gradient_itself(package):
    """Of (|w| - 1)^2: 2 (|w| - 1) w / |w|."""
    adversarial = PANELS[package][1]
    w = np.random.default_rng(0).standard_normal((1, 3, 2, 2))
    x = tensor(package, np.ones((2, 3, 2, 2)))
    if package == "pytorch":
        variable = torch.from_numpy(w).requires_grad_()
        penalty = adversarial.gradient_penalty(lambda x: variable * x, x)
        found = torch.autograd.grad(penalty, variable)[0].numpy()
    else:
        variable = tf.Variable(w)
        with tf.GradientTape() as tape:
            penalty = adversarial.gradient_penalty(lambda x: variable * x, x)
        found = tape.gradient(penalty, variable).numpy()
    norm = np.linalg.norm(w)
    np.testing.assert_allclose(found, 2 * (norm - 1) * w / norm)


@EACH_PANEL
def test_interpolation_has_a_share_for_each_image(package):
    interpolate = PANELS[package][1].interpolate
    a, b = np.full((2, 1, 2, 3), 10.0), np.full((2, 1, 2, 3), 20.0)
    found = np.asarray(interpolate(*(tensor(package, x) for x in (a, b, [0.25, 1.0]))))
    np.testing.assert_allclose(found[:, 0, 0, 0], [17.5, 10.0])


# third-party numbers


@dataclass(frozen=True)
class Stored:
    """A file with a penalty.

    Args:
        file: name of the fingerprint.
        model, options: of the discriminator.
        terms: the stored losses, from the panel's losses, the critic, images by name, and targets.
        outputs: stored output -> what is compared: the name of images, or "gradient" of the penalised ones.
        mix: share of the first of two images in the mixture, and the name of the first.
        answer: key of the answer in what the model returns.
        weights: changes the seeded weights.
    """

    file: str
    model: str
    options: Mapping
    terms: Callable
    outputs: Mapping[str, str]
    penalised: str
    mix: tuple = ()
    answer: str = ""
    weights: Callable = field(default=lambda values: values)


def wgan_gp(adversarial, D, images):
    return {
        "real": adversarial.adversarial_loss(D(images["real"]), True, "wgan"),
        "fake": adversarial.adversarial_loss(D(images["fake"]), False, "wgan"),
        "gp": 10 * adversarial.gradient_penalty(D, images["mix"]),
    }


WGAN_OUTPUTS = {"pred_real": "real", "pred_fake": "fake", "pred_mix": "mix", "gradient_mix": "gradient"}
STARGAN_OUTPUTS = {"src_real": "real", "src_fake": "fake", "src_mix": "mix", "gradient_mix": "gradient"}
FILES = [
    *(
        Stored(
            f"wgan_gp_patchgan_{norm}",
            "patchgan_70",
            {"in_chans": 3, "width": 8, "layers": 2, "norm": norm},
            wgan_gp,
            WGAN_OUTPUTS,
            "mix",
            ("real", (0.3, 0.8)),
        )
        for norm in ("instance", "none")
    ),
    *(
        Stored(
            f"stargan_d_{size}_c{c_dim}",
            "stargan_discriminator",
            {"size": size, "c_dim": c_dim},
            wgan_gp,
            STARGAN_OUTPUTS,
            "mix",
            ("real", (0.3, 0.8)),
            "src",
        )
        for size, c_dim in ((128, 5), (64, 8))
    ),
]


def domains(panel, package, stored, images):
    """StarGAN's third loss: naming the attributes of the real images."""
    module = tf_stargan if package == "tensorflow" else torch_stargan
    code = C5 if stored.file.endswith("c5") else C8
    logits = panel.model(images["real"])["cls"]
    return module.StarGANCriterion().classification(logits, tensor(package, code))


@pytest.mark.parametrize("stored", FILES, ids=lambda stored: stored.file)
@EACH_PANEL
def test_penalties_are_the_references(package, stored):
    cls, adversarial = PANELS[package]
    expected = fingerprints.load(stored.file)
    arrays = fingerprints.inputs_of(expected)
    if stored.mix:
        first, share = stored.mix
        (second,) = set(arrays) - {first}
        share = np.reshape(share, (-1, 1, 1, 1))
        arrays["mix"] = share * arrays[first] + (1 - share) * arrays[second]
    entry = catalog.get(stored.model)
    lod = {"lod": np.zeros(1)} if "lod" in entry.inputs else {}
    example = {next(iter(entry.inputs)): arrays[stored.penalised], **lod}
    panel = cls(entry, stored.options, precision="float64", example=example)
    panel.load(stored.weights(seeded(panel.shapes())))
    moved = package == "tensorflow"
    images = {name: tensor(package, x.transpose(0, 2, 3, 1) if moved else x) for name, x in arrays.items()}

    def D(x):
        answer = panel.model(x, *(tensor(package, value) for value in lod.values()))
        return answer[stored.answer] if stored.answer else answer

    def total():
        terms = stored.terms(adversarial, D, images)
        if "cls" in expected["loss"]["terms"]:
            terms["cls"] = domains(panel, package, stored, images)
        return terms, sum(terms.values())

    if moved:
        with tf.GradientTape() as tape:
            terms, loss = total()
        names, variables = zip(*((name, v.value) for name, (v, _) in panel.trainable().items()))
        gradients = dict(zip(names, tape.gradient(loss, variables, unconnected_gradients="zero")))
    else:
        terms, loss = total()
        names, variables = zip(*panel.model.named_parameters())
        gradients = dict(zip(names, torch.autograd.grad(loss, variables, allow_unused=True)))
    numbers = {name: np.asarray(float(value)) for name, value in terms.items()}
    wanted = {name: np.asarray(value) for name, value in expected["loss"]["terms"].items()}
    figures = compare(numbers, wanted)
    seen = {"gradient": adversarial.input_gradient(D, images[stored.penalised])}
    seen |= {name: D(x) for name, x in images.items()}
    for theirs, ours in stored.outputs.items():
        found = np.asarray(seen[ours] if moved else seen[ours].detach())
        found = found.transpose(0, 3, 1, 2) if moved and found.ndim == 4 else found
        figures += compare_with_fingerprint(theirs, found, expected["outputs"][theirs])
        if ours == "gradient" and "gradient_norm" in expected["outputs"]:
            norms = np.sqrt(np.square(found).sum((1, 2, 3)))
            figures += compare_with_fingerprint("gradient_norm", norms, expected["outputs"]["gradient_norm"])
    for figure in figures:
        assert figure.relative <= VALUES, figure
    stored_norms = {name: np.asarray(norm) for name, (norm, _) in expected["loss"]["gradients"].items()}
    found = {name: np.linalg.norm(np.asarray(gradients[name])) for name in stored_norms}
    for figure in compare(found, stored_norms, floor=1e-3 * max(stored_norms.values())):
        assert figure.relative <= GRADIENTS, figure
