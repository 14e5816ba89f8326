"""Pictures of triangles: what is seen where, and gradients of the soft one."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.face.rasterization as keras_panel
import torch_impl.face.rasterization as torch_panel

TRIANGLES = np.array([[0, 1, 2], [3, 4, 5]])
# a near triangle before a far one that slopes, x, y, depth
VERTICES = np.array([[[0.0, 0, 2], [6, 0, 2], [0, 6, 2], [0, 0, 3], [8, 0, 3], [0, 8, 7]]])
COLOURS = np.array([[[1.0], [1], [1], [3], [3], [7]]])


def both(function, *arrays, **options):
    found = getattr(torch_panel, function)(*map(torch.tensor, arrays), **options)
    twin = getattr(keras_panel, function)(*map(tf.constant, arrays), **options)
    for key, value in found.items():
        other = np.asarray(twin[key])
        np.testing.assert_allclose(value, other.transpose(0, 3, 1, 2) if key == "image" else other, atol=1e-12)
    return {key: value.numpy() for key, value in found.items()}


def test_the_nearest_triangle_is_seen_and_its_attributes_are_linear():
    found = both("rasterize", VERTICES, TRIANGLES, COLOURS, size=(8, 9))
    y, x = np.mgrid[:8, :9] + 0.5
    near, far = x + y <= 6, x + y <= 8
    np.testing.assert_array_equal(found["triangle"][0], np.where(near, 0, np.where(far, 1, -1)))
    depth = np.where(near, 2, np.where(far, 3 + y / 2, 0))
    np.testing.assert_allclose(found["depth"][0], depth, atol=1e-12)
    np.testing.assert_allclose(found["image"][0, 0], np.where(near, 1, depth), atol=1e-12)
    # the other sense of a triangle changes nothing
    turned = both("rasterize", VERTICES, TRIANGLES[:, ::-1].copy(), COLOURS, size=(8, 9))
    np.testing.assert_array_equal(turned["triangle"], found["triangle"])


def test_of_equal_triangles_the_first_is_seen_and_flat_ones_never():
    triangles = np.array([[0, 1, 1], [0, 1, 2], [0, 1, 2]])
    found = both("rasterize", VERTICES, triangles, COLOURS, size=(6, 6))
    assert set(np.unique(found["triangle"])) == {-1, 1}
    soft = both("rasterize_soft", VERTICES, triangles[:1], COLOURS, size=(6, 6))
    assert soft["silhouette"].max() == 0 and soft["image"].max() == 0


def test_the_soft_picture_becomes_the_hard_one():
    hard = both("rasterize", VERTICES, TRIANGLES, COLOURS, size=(8, 9))
    soft = both("rasterize_soft", VERTICES, TRIANGLES, COLOURS, size=(8, 9), far=10.0, sigma=1e-7, gamma=1e-3)
    y, x = np.mgrid[:8, :9] + 0.5
    inner = (x + y != 6) & (x + y != 8)  # not on a border
    np.testing.assert_allclose(soft["image"][0, 0][inner], hard["image"][0, 0][inner], atol=1e-6)
    np.testing.assert_allclose(soft["silhouette"][0][inner], (hard["triangle"][0] >= 0)[inner], atol=1e-6)


def test_a_border_is_half_covered():
    distance = 0.5 * (2 / 8) ** 2 / 0.01  # of the pixel next to the border x + y = 6, whose distance is the root of 1/2
    soft = both("rasterize_soft", VERTICES, TRIANGLES[:1], COLOURS, size=(8, 8), sigma=0.01)["silhouette"][0]
    assert soft[2, 3] == pytest.approx(0.5) and soft[3, 3] == pytest.approx(1 / (1 + np.exp(distance)))


def test_gradients_move_a_border_outwards():
    vertices = torch.tensor(VERTICES[:, :3], requires_grad=True)
    colours = torch.tensor(COLOURS[:, :3])
    triangles = torch.tensor(TRIANGLES[:1])
    torch_panel.rasterize_soft(vertices, triangles, colours, (8, 8), sigma=0.01)["silhouette"].sum().backward()
    assert vertices.grad[0, 1, 0] > 0 and vertices.grad[0, 2, 1] > 0
    torch.autograd.gradcheck(
        lambda v: torch_panel.rasterize_soft(v, triangles, colours, (3, 4), sigma=0.1, gamma=0.1)["image"],
        (vertices.detach() + torch.tensor([[[0.1, 0.2, 0]]]).double()).requires_grad_(),
    )
