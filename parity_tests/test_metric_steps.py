"""Margins on cosines, memories and centres of metric learning, against literal numbers."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.losses.margin as tf_margin
import torch_impl.losses.margin as torch_margin
from parity_tests.harness.panels import PyTorch
from parity_tests.test_metric import BOTH, SIZE, built, near, stored

LOGITS = {  # output -> model, options; logits, cross-entropy and gradient from cosines
    "insightface_ArcFace_s64_m0.5": ("arcface", {}),
    "insightface_CosFace_s64_m0.4": ("combined_margin", {"margins": (1.0, 0.0, 0.4)}),
    "insightface_Combined_1_0.5_0": ("arcface", {}),
    "insightface_Combined_1_0.3_0.2": ("combined_margin", {"margins": (1.0, 0.0, 0.2)}),  # it drops m2 if there is m3
    "insightface_Combined_1_0_0.4_filter0.1": (
        "combined_margin",
        {"margins": (1.0, 0.0, 0.4), "filter_threshold": 0.1},
    ),
    "CosSoftmax": ("combined_margin", {"margins": (1.0, 0.0, 0.35), "scale": 30.0}),
    "ArcSoftmax": ("arcface", {}),
    "CircleSoftmax": ("circle_softmax", {}),
}


def from_cosines(panel, criterion, cosines, labels):
    """Logits, cross-entropy and its gradient."""
    if panel is PyTorch:
        cosines, labels = torch.tensor(cosines, requires_grad=True), torch.tensor(labels)
        logits = criterion.logits(cosines, labels)
        loss = torch_margin.classify(logits, labels)
        return logits.detach().numpy(), loss.item(), torch.autograd.grad(loss, cosines)[0].numpy()
    cosines, labels = tf.constant(cosines), tf.constant(labels)
    with tf.GradientTape() as tape:
        tape.watch(cosines)
        logits = criterion.logits(cosines, labels)
        loss = tf_margin.classify(logits, labels)
    return logits.numpy(), loss.numpy(), tape.gradient(loss, cosines).numpy()


@BOTH
@pytest.mark.parametrize("name", LOGITS)
def test_margins_on_cosines(panel, name):
    model, options = LOGITS[name]
    if name.startswith("insightface"):
        inputs, outputs = stored(f"{name}.ce")
        unit = [inputs[key] / np.linalg.norm(inputs[key], axis=1, keepdims=True) for key in "EW"]
        cosines, labels = unit[0] @ unit[1].T, inputs["labels"].astype(np.int64)
        labels[4] = -1
        options, keys = {**options, "grad": "straight_through"}, ("logits", "ce", "grad_cosine")
    else:
        inputs, outputs = stored(f"{name}.ce_valid_rows")
        cosines, labels = inputs["cosine"], inputs["targets"].astype(np.int64)
        keys = ("", "ce_valid_rows", "grad")
    criterion = built(panel, model, {**SIZE, **options}, {}).criterion
    for found, key in zip(from_cosines(panel, criterion, cosines, labels), keys, strict=True):
        near(found, outputs[f"{name}.{key}" if key else name])


@BOTH
@pytest.mark.parametrize("name, loss", [("xbm_contrastive_cosine", "contrastive"), ("xbm_triplet0.1", "triplet")])
def test_three_steps_of_a_memory(panel, name, loss):
    inputs, outputs = stored(f"{name}.step0")
    options = {"memory_size": 20, "embedding_size": 6, "loss": loss, "batch_weight": 0.0}
    memory, targets = built(panel, "cross_batch_memory", options, {}), {"labels": inputs["labels"].astype(np.int64)}
    for step, key in enumerate(("E", "E2", "E3")):
        x = {"embeddings": inputs[key]}
        near(memory.losses(x, targets)["total"], outputs[f"{name}.step{step}"])
        near(memory.gradients(x, targets, True)["input.embeddings"], outputs[f"{name}.step{step}.grad_E"])
        memory.criterion.update(memory.tensors(x), memory.tensors(targets))
    state = memory.state()
    for ours, theirs in (("queue_idx", "queue_idx"), ("label_memory", "labels"), ("embedding_memory", "memory")):
        near(state[f"criterion.{ours}"].reshape(outputs[f"{name}.{theirs}"].shape), outputs[f"{name}.{theirs}"])


@BOTH
def test_fastap_of_unit_rows(panel):
    """The reference's own backward pass is N / 2 times the derivative."""
    inputs, outputs = stored("fastap_original_unit_rows")
    x = {"embeddings": inputs["E"] / np.linalg.norm(inputs["E"], axis=1, keepdims=True)}
    targets, criterion = {"labels": inputs["labels"].astype(np.int64)}, built(panel, "fastap", {"normalize": False}, {})
    near(criterion.losses(x, targets)["total"], outputs["fastap_original_unit_rows"])
    gradient = criterion.gradients(x, targets, True)["input.embeddings"]
    near(gradient * len(gradient) / 2, outputs["fastap_original_unit_rows.grad"])
