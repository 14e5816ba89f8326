"""The first training step of MoCo, SimSiam and SwAV against the stored ones of their implementations."""

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch
from parity_tests.test_metric import BOTH
from tf_impl import state
from weights import catalog
from weights.seeded import seeded

R18 = {"block": "basic", "layers": (2, 2, 2, 2)}
STEPS = {  # file -> model, options, criterion, output of the file by ours, term
    "moco_v1_r18_step": ("moco_v1", {"dim": 32, "queue_size": 16, "momentum": 0.99, **R18}, {}, {"logits": "logits"}),
    "moco_v2_r18_step": ("moco_v2", {"dim": 32, "queue_size": 16, "momentum": 0.99, **R18}, {}, {"logits": "logits"}),
    "simsiam_r18": ("simsiam", {"dim": 64, "pred_dim": 16, **R18}, {}, {n: n for n in ("p1", "p2", "z1", "z2")}),
    "swav_r50": (
        "swav",
        {"hidden_mlp": 64, "output_dim": 16, "nmb_prototypes": 12},
        {},
        {"embedding": "embedding", "prototypes": "scores"},
    ),
}
STATE = {  # of MoCo after the step
    "queue": "queue",
    "queue_ptr": "queue_ptr",
    "k_conv1": "encoder_k.conv1.weight",
    "k_bn1_running_mean": "encoder_k.bn1.running_mean",
    "q_bn1_running_var": "encoder_q.bn1.running_var",
}
# 53 layers with batch statistics of 6 to 24 places amplify the file's float32 rounding; in float64 the panels agree
BOUNDS = {"swav": (5e-4, 3e-3)}


def in_training(panel, inputs, order):
    """Outputs, losses and gradients by name of a call with batch statistics."""
    given = list(panel.tensors(inputs).values())
    if isinstance(panel, PyTorch):
        extra = [torch.tensor(order)] if order else []
        panel.model.train()
        outputs = panel.model(*given, *extra)
        losses = panel.criterion(outputs, {})
        wanted = panel.trainable()
        values = torch.autograd.grad(losses["total"], list(wanted.values()))
        found = {name: value.numpy() for name, value in zip(wanted, values, strict=True)}
    else:
        extra = [tf.constant(order)] if order else []
        with tf.GradientTape() as tape:
            outputs = panel.model(*given, *extra, training=True)
            losses = panel.criterion(outputs, {})
        wanted = panel.trainable()
        values = tape.gradient(losses["total"], [variable.value for variable, _ in wanted.values()])
        pairs = zip(wanted.items(), values, strict=True)
        found = {n: state.to_torch(g.numpy(), axes) for (n, (_, axes)), g in pairs if g is not None}
    return panel.arrays(outputs), panel.arrays(losses), found


@BOTH
@pytest.mark.parametrize("file", STEPS)
def test_first_step(panel, file):
    model, options, criterion, keys = STEPS[file]
    expected, entry = fingerprints.load(file), catalog.get(model)
    inputs = fingerprints.inputs_of(expected)
    if model == "swav":
        inputs = {
            "large": np.stack([inputs["a0"], inputs["a1"]], 1),
            "small": np.stack([inputs["b0"], inputs["b1"]], 1),
        }
    built = panel(entry, options, criterion, example=inputs)
    shapes = {name: list(shape) for name, shape in built.shapes().items()}
    assert shapes == dict(expected["tensors"])
    if panel is PyTorch:
        assert built.parameters() == expected["parameters"]
    weights = seeded(built.shapes())
    if "queue_ptr" in weights:
        weights["queue_ptr"] = np.zeros(1, np.int64)  # left as built
    built.load(weights, strict=False)
    outputs, losses, gradients = in_training(built, inputs, [3, 0, 2, 1] if model.startswith("moco") else None)
    if model == "swav":  # the file has all images of a crop, then those of the next
        outputs = {name: np.concatenate(value.swapaxes(0, 1)) for name, value in outputs.items()}
    after = {**outputs, **built.state()}
    figures = [
        figure
        for theirs, ours in {**keys, **STATE}.items()
        if theirs in expected["outputs"]
        for figure in compare_with_fingerprint(theirs, after[ours], expected["outputs"][theirs])
    ]
    bound, gradient_bound = BOUNDS.get(model, (1e-4, 1e-3))
    assert max(figure.relative for figure in figures) <= bound, figures
    (term,) = expected["loss"]["terms"].values()
    np.testing.assert_allclose(losses["total"], term, rtol=1e-4)
    largest = max(norm for norm, _ in expected["loss"]["gradients"].values())
    for name, (norm, _) in expected["loss"]["gradients"].items():
        found = np.linalg.norm(gradients[name].astype(np.float64))
        assert abs(found - norm) <= gradient_bound * max(norm, 1e-3 * largest), name
