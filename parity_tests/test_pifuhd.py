"""PIFuHD's surfaces: the refined grid, marching cubes, files."""

import numpy as np
import pytest

from weights.processing.body import pifuhd


def ball(centre=(0.1, -0.2, 0.05), radius=0.5, softness=0.02):
    """Probabilities of a ball, and a list of how many points were asked for."""
    asked = []

    def field(points):
        asked.append(len(points))
        distance = np.linalg.norm(points - np.array(centre), axis=1)
        return 1 / (1 + np.exp((distance - radius) / softness))

    return field, asked


def volume(vertices, faces):
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def test_the_grid_is_refined_where_values_change(monkeypatch):
    monkeypatch.setattr(pifuhd, "CELLS", 16)
    field, asked = ball()
    found = pifuhd.occupancy_grid(field, 64)
    axis = 2 * np.arange(64) / 64 - 1
    whole = field(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)).reshape(found.shape)
    np.testing.assert_allclose(found, whole, atol=0.05)
    np.testing.assert_array_equal(found > 0.5, whole > 0.5)
    assert sum(asked[:-1]) < 64**3 / 3
    exact = pifuhd.occupancy_grid(field, 64, flat=0.0)
    np.testing.assert_allclose(exact, whole, atol=1e-6)


def test_the_last_layer_of_points_belongs_to_no_cell():
    found = pifuhd.occupancy_grid(lambda points: points[:, 0], 128, flat=1.0)
    np.testing.assert_allclose(found[127], 127 / 64 - 1)
    np.testing.assert_allclose(found[1, :127, :127], 0.5 * (-1 + -1 + 1 / 32))  # between the nodes 0 and 2


@pytest.mark.parametrize("scale", [(1, 1, 1), (1, -1, 1)])
def test_surfaces_are_in_space_and_their_triangles_look_outwards(scale):
    calib = np.diag([*np.array(scale) / 100.0, 1])
    calib[:3, 3] = 0.2, 0.0, -0.1
    field, _ = ball((10.0, 5, 20), 40.0, 2.0)
    vertices, faces = pifuhd.reconstruct(field, calib, 64)
    np.testing.assert_allclose(np.linalg.norm(vertices - [10, 5, 20], axis=1), 40, atol=0.6)
    assert volume(vertices - [10, 5, 20], faces) == pytest.approx(4 / 3 * np.pi * 40**3, rel=0.02)


def test_nothing_has_no_surface():
    vertices, faces = pifuhd.surface(np.zeros((4, 4, 4)))
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)
    with pytest.raises(ValueError, match="resolution=48"):
        pifuhd.occupancy_grid(ball()[0], 48)


def test_files_hold_vertices_triangles_and_colours(tmp_path):
    vertices, faces = np.array([[0, 0, 0.5], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]])
    colours = pifuhd.colours_of_normals(np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]))
    pifuhd.write_mesh(tmp_path / "a.obj", vertices, faces, colours)
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert lines[0] == "v 0.000000 0.000000 0.500000 0.5000 0.5000 1.0000" and lines[-1] == "f 1 2 3"
    pifuhd.write_mesh(tmp_path / "a.ply", vertices, faces, colours)
    lines = (tmp_path / "a.ply").read_text().splitlines()
    assert lines[2] == "element vertex 3" and lines[-1] == "3 0 1 2"
    assert lines[lines.index("end_header") + 1] == "0.000000 0.000000 0.500000 128 128 255"
    pifuhd.write_mesh(tmp_path / "b.ply", vertices, faces)
    assert "uchar red" not in (tmp_path / "b.ply").read_text()
    with pytest.raises(ValueError, match=r"\.stl"):
        pifuhd.write_mesh(tmp_path / "a.stl", vertices, faces)
