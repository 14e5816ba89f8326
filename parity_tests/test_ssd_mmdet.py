"""SSD with mmdet's weights: its losses and their gradients, which are ours with the background at the other end.

mmdet does not cut its default boxes, and counts an image without matched boxes for one; here each has some.
"""

import re

import numpy as np
import pytest

from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.cases.detection.ssd import MMDET
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

CLASSES = 81  # of which the background is the last one in mmdet, the first one here


def ours(name: str) -> str:
    for pattern, replacement in MMDET.items():
        name = re.sub(pattern, replacement, name)
    return name


def background_first(name: str, value):
    """The classes of a prediction's weight or bias (A * K, ...) in our order."""
    if not name.startswith("bbox_head.cls_convs"):
        return value
    return np.roll(value.reshape(-1, CLASSES, *value.shape[1:]), 1, 1).reshape(value.shape)


@pytest.mark.slow
@pytest.mark.parametrize("panel", (TensorFlow, PyTorch), ids=lambda panel: panel.package)
@pytest.mark.parametrize(("model", "file"), [("ssd300_vgg16", "ssd300_coco"), ("ssd512_vgg16", "ssd512_coco")])
def test_losses_and_gradients_are_those_of_mmdet(panel, model, file):
    expected = fingerprints.load(file)
    twin = panel(catalog.get(model), {"num_classes": CLASSES, "clip": False}, {}, None, "float32")
    theirs = seeded({name: tuple(shape) for name, shape in expected["tensors"]})
    twin.load({ours(name): background_first(name, value) for name, value in theirs.items()})
    inputs = {"images": next(iter(fingerprints.loss_inputs_of(expected).values()))}
    targets = losses_objects(expected)
    targets["labels"] = targets["labels"] + targets["valid"]
    found, terms = twin.losses(inputs, targets), expected["loss"]["terms"]
    for key, name in (("loss_cls", "classification"), ("loss_bbox", "bbox_regression")):
        assert found[name] == pytest.approx(terms[f"{key}.0"] + terms[f"{key}.1"], rel=1e-4), name
    gradients, wanted = twin.gradients(inputs, targets), expected["loss"]["gradients"]
    norms = [np.linalg.norm(gradients[ours(name)].astype(np.float64)) for name in wanted]
    np.testing.assert_allclose(norms, [norm for norm, _ in wanted.values()], rtol=1e-3, atol=1e-7)
