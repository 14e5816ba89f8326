"""SSD: the results of torchvision at published size, and what the cases do not show."""

import importlib

import numpy as np
import pytest

from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

MODELS = [("ssd300_vgg16", "SSDPostProcess"), ("ssdlite320_mobilenet_v3_large", "ssdlite_postprocess")]


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name, form", MODELS)
def test_detections_of_torchvision(name, form, package):
    """Boxes, scores and labels of two images, in order, with ``score_thresh=0.02, detections_per_img=30``."""
    file = f"torchvision_{name}_detections"
    expected, panel = fingerprints.load(file), {"tf_impl": TensorFlow, "torch_impl": PyTorch}[package]
    built = panel(catalog.get(name), {}, precision="float32")
    built.load(seeded(built.shapes()))
    module = importlib.import_module(f"{package}.detection.ssd")
    built.postprocess = getattr(module, form)(score_threshold=0.02, detections=30)
    found = built.results({"images": scaled_image(file, 50)})
    assert found["valid"].all()
    for i in range(2):
        for key in ("boxes", "scores", "labels"):
            for figure in compare_with_fingerprint(key, found[key][i], expected["outputs"][f"detections.{i}.{key}"]):
                assert figure.relative < (1e-6 if key == "labels" else 1e-4), (i, figure)


def test_default_boxes_without_steps_fill_the_image():
    for package in ("tf_impl", "torch_impl"):
        default_boxes = importlib.import_module(f"{package}.boxes.default_boxes").default_boxes
        boxes = default_boxes((60, 90), [(2, 3)], (0.2, 0.8), ((2, 3),))
        assert boxes.shape == (36, 4)
        centres = (boxes[::6, :2] + boxes[::6, 2:]) / 2
        np.testing.assert_allclose(centres, [[15, 15], [45, 15], [75, 15], [15, 45], [45, 45], [75, 45]], rtol=1e-6)
        np.testing.assert_allclose(boxes[1, 2:] - boxes[1, :2], [36, 24], rtol=1e-5)  # between the two sizes, 0.4
        wide = default_boxes((60, 90), [(1, 1)], (0.9, 1.0), ((2,),))
        np.testing.assert_allclose(wide[2, 2:] - wide[2, :2], [90, 0.9 / 2**0.5 * 60], rtol=1e-6)  # not over the image
        free = default_boxes((60, 90), [(1, 1)], (0.9, 1.0), ((2,),), (60,), clip=False)
        np.testing.assert_allclose(free[2, 2:] - free[2, :2], [0.9 * 2**0.5 * 90, 0.9 / 2**0.5 * 60], rtol=1e-6)
