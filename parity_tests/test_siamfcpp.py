"""The targets of SiamFC++'s cells, read back from the gradients of its losses, against those of the reference."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.tracking.siamfcpp as tf_siamfcpp
import torch_impl.tracking.siamfcpp as torch_siamfcpp
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint

EXPECTED = fingerprints.load("video_analyst_siamfcpp_targets")
BOXES = np.array(EXPECTED["inputs"]["boxes"]["data"]).reshape(-1, 4)
CELLS, STRIDE, OFFSET = (int(EXPECTED["inputs"][key]) for key in ("score_size", "total_stride", "score_offset"))
LOGIT = 1.0


def points() -> np.ndarray:
    """(P, 2), x and y of the cells, row by row."""
    y, x = np.indices((CELLS, CELLS)) * STRIDE + OFFSET
    return np.stack((x.ravel(), y.ravel()), -1).astype(float)


def gradients(package: str, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the losses of class and centredness, to equal logits; the box that is found covers the whole window."""
    found = {name: np.full((1, CELLS**2, 1), LOGIT) for name in ("cls_pred", "ctr_pred")}
    found |= {"box_pred": np.tile([0.0, 0, 303, 303], (1, CELLS**2, 1)), "points": points()}
    if package == "tf_impl":
        outputs = {name: tf.Variable(x) for name, x in found.items()}
        targets = {"boxes": tf.constant(box[None]), "same": tf.constant([True])}
        with tf.GradientTape(persistent=True) as tape:
            losses = tf_siamfcpp.SiamFCPPCriterion(dtype="float64")(
                {name: tf.convert_to_tensor(x) for name, x in outputs.items()}, targets
            )
        return tuple(
            tape.gradient(losses[key], outputs[f"{key}_pred"]).numpy().reshape(-1, 1) for key in ("cls", "ctr")
        )
    outputs = {name: torch.tensor(x, requires_grad=True) for name, x in found.items()}
    losses = torch_siamfcpp.SiamFCPPCriterion()(
        outputs, {"boxes": torch.tensor(box[None]), "same": torch.tensor([True])}
    )
    return tuple(
        torch.autograd.grad(losses[key], outputs[f"{key}_pred"], retain_graph=True)[0].numpy().reshape(-1, 1)
        for key in ("cls", "ctr")
    )


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("i", [0, 1])
def test_targets_of_cells_are_those_of_the_reference(package, i):
    of_class, of_centre = gradients(package, BOXES[i])
    inside = of_class < 0  # a logit is to grow where the object is
    centred = np.where(inside, 1 / (1 + np.exp(-LOGIT)) - of_centre * inside.sum(), 0.0)
    boxes = np.where(inside, BOXES[i], 0.0)
    for name, found in {"cls_gt": inside, "ctr_gt": centred, "box_gt": boxes}.items():
        figures = compare_with_fingerprint(name, found.astype(float), EXPECTED["outputs"][f"{name}.{i}"])
        assert max(figure.relative for figure in figures) < 1e-6, figures
