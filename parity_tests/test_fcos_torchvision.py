"""FCOS as torchvision has it: losses of given outputs, and the results at published size, in both panels."""

import importlib

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_one_stage_losses import CLOSE, SCENE, both, in_float64, losses, padded, wave  # noqa: F401
from weights import catalog
from weights.seeded import seeded

FILE = "torchvision_fcos_resnet50_fpn_detections"


@both
@pytest.mark.usefixtures("in_float64")
def test_losses_of_torchvision(panel):
    outputs = {
        "cls_logits": wave((2, 1364, 6), 2, -2, 0.1),
        "bbox_regression": np.maximum(wave((2, 1364, 4), 1, 1.5, 0.2), 0),
        "bbox_ctrness": wave((2, 1364, 1), 1, 0, 0.3),
        "image_size": np.array([256, 256]),
    }
    for i in range(3, 8):
        stride = 2**i
        row, column = np.divmod(np.arange((256 // stride) ** 2), 256 // stride)
        centre = np.stack((column, row), -1) * float(stride)
        outputs[f"anchors_p{i}"] = np.concatenate((centre - stride / 2, centre + stride / 2), -1)
    targets = padded(SCENE)
    targets["labels"] = targets["labels"] + targets["valid"]
    outputs = {key: panel.tensor(x) for key, x in outputs.items()}
    found = losses(panel, panel.module("detection.fcos_torchvision").TorchvisionFCOSCriterion(), outputs, targets)
    for key, value in (("classification", 9.161358), ("bbox_regression", 0.815829), ("bbox_ctrness", 0.711807)):
        assert found[key] == pytest.approx(value, **CLOSE), key


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_detections_of_torchvision(panel):
    """Boxes, scores and labels of two images, in order; the first 30."""
    expected, built = fingerprints.load(FILE), panel(catalog.get("fcos_resnet50_fpn"), {}, precision="float32")
    built.load(seeded(built.shapes()))
    module = importlib.import_module(f"{panel.package}.detection.fcos_torchvision")
    built.postprocess = module.TorchvisionFCOSPostProcess(detections=30)
    found = built.results({"images": fingerprints.inputs_of(expected)["image"]})
    assert found["valid"].all()
    for i in range(2):
        for key in ("boxes", "scores", "labels"):
            for figure in compare_with_fingerprint(key, found[key][i], expected["outputs"][f"detections.{i}.{key}"]):
                assert figure.relative < (1e-7 if key == "labels" else 1e-4), (i, figure)
