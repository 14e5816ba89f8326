"""The morphable face's rendered image, and the losses of its pixels."""

import numpy as np
import pytest
import torch

from parity_tests.cases.face.morphable import OCTAHEDRON, SIZES, VERTICES
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_morphable import CORNERS
from torch_impl.face.morphable_fitting import MorphableFittingCriterion
from weights import catalog
from weights.processing.face.morphable import triangles_around

OPTIONS = {"num_vertices": VERTICES, "sizes": SIZES, "landmarks": (4,), "size": (56, 112)}


def drawn(panel):
    """An octahedron of grey, whose upper corner is white."""
    model = panel(catalog.get("morphable_renderer"), OPTIONS)
    arrays = {name: np.zeros(shape) for name, shape in model.shapes().items()}
    arrays["mean_shape"] = CORNERS.reshape(-1, 1)
    texture = np.full((VERTICES, 3), 0.5)
    texture[2] = 1
    arrays["mean_tex"] = 255 * texture.reshape(-1, 1)
    model.load(arrays)
    around = triangles_around(OCTAHEDRON, VERTICES)
    coefficients = np.zeros((1, sum(SIZES) + 33))
    return model.outputs({"coefficients": coefficients, "triangles": OCTAHEDRON, "around": around})


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_the_picture_shows_what_the_camera_sees(panel):
    found = drawn(panel)
    y, x = np.mgrid[:56, :112] + 0.5
    # 101.5 of the camera's pixels from the middle to the corners
    distance = np.abs(x - 56) / (101.5 / 2) + np.abs(y - 28) / (101.5 / 4)
    np.testing.assert_array_equal(found["mask"][0], distance < 1)
    light = 0.8 * np.sqrt(np.pi) / 2
    image = found["image"][0]
    np.testing.assert_allclose(image[:, 40, 56], 0.5 * light)  # below the middle
    assert image[0, 5, 56] > 0.75 * light  # near the upper corner
    np.testing.assert_allclose(image[:, found["mask"][0] == 0], 0)


def test_a_photograph_that_is_the_picture_costs_nothing():
    outputs = {name: torch.tensor(x) for name, x in drawn(PyTorch).items()}
    targets = {
        "points": outputs["landmarks"],
        "share": torch.ones(1),
        "image": outputs["image"].clone(),
        "seen": torch.ones(1, 56, 112),
        "skin": torch.tensor([1.0, 1, 0, 1, 1, 1]),  # without the white corner
    }
    losses = MorphableFittingCriterion()(outputs, targets)
    assert losses["photo"] == pytest.approx(1.92e-3) and losses["reflectance"] == 0
    targets["image"][:, :, 30:] += 0.3
    targets["seen"][:, :30] = 0  # only what differs is seen
    losses = MorphableFittingCriterion()(outputs, targets)
    assert losses["photo"] == pytest.approx(1.92 * np.sqrt(3 * 0.09 + 1e-6))
    targets["skin"] = torch.ones(6)
    assert MorphableFittingCriterion()(outputs, targets)["reflectance"] == pytest.approx(5 * 3 * (5 / 6 * 0.25) / 6)
