"""3DDFA's losses against stored numbers of the reference, and the geometry around the network."""

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.processing.face import tddfa

STORED = fingerprints.load("3ddfa_losses")
KEYPOINTS = [1, 4, 9, 15, 22]
RANDOM = [7 * i % 24 for i in range(24)]


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch])
@pytest.mark.parametrize(
    "model, name, vertices",
    [
        ("tddfa_wpdc", "wpdc", KEYPOINTS + RANDOM[:6]),
        ("tddfa_vdc", "vdc_all", range(24)),
        ("tddfa_vdc", "vdc_resample", KEYPOINTS + RANDOM),
    ],
)
def test_losses_are_those_of_the_reference(panel, model, name, vertices):
    given = fingerprints.inputs_of(STORED)
    found = panel(catalog.get(model), {"num_vertices": 24})
    arrays = ("u", "w_shp", "w_exp", "param_mean", "param_std")
    found.load({f"criterion.{key}": np.asarray(given[key], np.float64) for key in arrays})
    inputs = {"parameters": given["input"]}
    targets = {"wanted": given["target"], "vertices": np.array(vertices)}
    np.testing.assert_allclose(found.losses(inputs, targets)["total"], STORED["outputs"][name]["data"][0], rtol=1e-5)
    gradient = found.gradients(inputs, targets, True)["input.parameters"]
    expected = np.array(STORED["outputs"][f"{name}.grad"]["data"]).reshape(2, 62)
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)


def test_pose_is_found_again():
    yaw, pitch, roll = 0.4, -0.3, 0.2
    turn = tddfa.rotation(pitch, yaw, roll)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    matrix = np.concatenate([0.01 * turn, [[3.0], [4.0], [5.0]]], 1)
    scale, found, shift = tddfa.parse_pose(matrix)
    np.testing.assert_allclose(scale, 0.01)
    np.testing.assert_allclose(found, turn, atol=1e-12)
    np.testing.assert_allclose(shift, [3, 4, 5])
    np.testing.assert_allclose(tddfa.angles(found), (yaw, pitch, roll), atol=1e-12)


def test_straight_up_has_no_roll():
    np.testing.assert_allclose(tddfa.angles(tddfa.rotation(0.3, np.pi / 2, 0.0)), (np.pi / 2, 0.3, 0), atol=1e-7)


def test_crop_is_padded_with_zeros_and_vertices_find_their_way_back():
    image = np.full((40, 50, 3), 255, np.uint8)
    box = tddfa.box_around((30, 20, 60, 50))
    assert box == pytest.approx((21.5, 15.5 - 0.0, 21.5 + 47, 15.5 + 47), abs=5)
    crop = tddfa.crop(image, (-10, -10, 30, 30), 20)
    assert crop.shape == (20, 20, 3) and crop[0, 0, 0] == 0 and crop[15, 15, 0] == 255
    corners = np.array([[0, 120], [121, 1], [0, 60]], float)  # x, y upwards, z of two vertices
    found = tddfa.in_image(corners, (10, 20, 130, 140))
    np.testing.assert_allclose(found, [[10, 130], [20, 140], [0, 60]])
    with pytest.raises(ValueError, match="box"):
        tddfa.crop(image, (5, 5, 5, 9), 20)


def test_box_of_landmarks_is_the_diagonal_of_their_square():
    points = np.array([[10.0, 30, 20], [10, 20, 15]])
    np.testing.assert_allclose(
        tddfa.box_around_landmarks(points), (20 - 14.142, 15 - 14.142, 34.142, 29.142), atol=1e-3
    )
