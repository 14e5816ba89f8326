"""The morphable face: its geometry and light on small shapes, and the fit to landmarks."""

import numpy as np
import pytest

from parity_tests.cases.face.morphable import OCTAHEDRON, SIZES, VERTICES
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.processing.face import morphable

CORNERS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)


def octahedron(panel, **numbers):
    """What a face without directions looks like: an octahedron of grey."""
    model = panel(catalog.get("morphable_face"), {"num_vertices": VERTICES, "sizes": SIZES, "landmarks": (4,)})
    arrays = {name: np.zeros(shape) for name, shape in model.shapes().items()}
    arrays["mean_shape"] = CORNERS.reshape(-1, 1) + 5.0  # which is moved to the middle
    arrays["mean_tex"] = np.full((3 * VERTICES, 1), 127.5)
    model.load(arrays)
    coefficients = np.zeros((1, sum(SIZES) + 33))
    for name, start in (("angles", 12), ("light", 15), ("shift", 42)):
        if name in numbers:
            coefficients[0, start : start + len(numbers[name])] = numbers[name]
    around = morphable.triangles_around(OCTAHEDRON, VERTICES)
    return model.outputs({"coefficients": coefficients, "triangles": OCTAHEDRON, "around": around})


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_face_looks_at_the_camera(panel):
    found = octahedron(panel)
    np.testing.assert_allclose(found["vertices"][0], CORNERS * [1, 1, -1] + [0, 0, 10], atol=1e-12)
    np.testing.assert_allclose(found["pixels"][0, :4, 0], [112 + 101.5, 112 - 101.5, 112, 112], atol=1e-9)
    np.testing.assert_allclose(found["landmarks"][0], [[112, 112]])
    np.testing.assert_allclose(np.abs(found["normals"][0]), np.abs(CORNERS), atol=1e-12)
    np.testing.assert_allclose(found["texture"], 0.5)
    np.testing.assert_allclose(found["colours"], 0.5 * 0.8 * np.sqrt(np.pi) / 2)  # of the ambient light


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_pose_turns_and_moves(panel):
    found = octahedron(panel, angles=[0, 0, np.pi / 2], shift=[0.5, 0, 1])
    turned = CORNERS[:, [1, 0, 2]] * [-1, 1, 1] + [0.5, 0, 1]
    np.testing.assert_allclose(found["vertices"][0], turned * [1, 1, -1] + [0, 0, 10], atol=1e-12)


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
def test_light_from_one_side(panel):
    found = octahedron(panel, light=[0, 0, 0, 0.5])["colours"][0]  # red, along x
    assert abs(found[0, 0] - found[1, 0]) > 0.5 and found[2, 0] == pytest.approx(found[3, 0])
    np.testing.assert_allclose(found[:, 1], found[0, 1])


def test_triangles_around_a_vertex():
    found = morphable.triangles_around(np.array([[0, 1, 2], [0, 2, 3]]), 5, 3)
    np.testing.assert_array_equal(found, [[0, 1, 2], [0, 2, 2], [0, 1, 2], [1, 2, 2], [2, 2, 2]])


def test_a_face_is_found_again_from_its_landmarks():
    rng = np.random.default_rng(0)
    mean = 50 * rng.standard_normal((30, 3))
    bases = [10 * rng.standard_normal((30, 3, n)) for n in (4, 3)]
    shape, expression = 0.5 * rng.standard_normal(4), 0.5 * rng.standard_normal(3)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    face = mean + bases[0] @ shape + bases[1] @ expression
    pixels = 2.0 * face @ turn[:2].T + [100, 80]
    found = morphable.fit_landmarks(pixels, mean, bases[0], np.full(4, 1.0), bases[1], np.full(3, 1.0))
    np.testing.assert_allclose(found["scale"], 2, rtol=0.05)
    np.testing.assert_allclose(found["rotation"], turn, atol=0.05)
    again = mean + bases[0] @ found["shape"] + bases[1] @ found["expression"]
    seen = found["scale"] * again @ found["rotation"][:2].T + found["shift"]
    assert np.abs(seen - pixels).mean() < 0.05 * np.abs(pixels - pixels.mean(0)).mean()
