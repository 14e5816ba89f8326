"""Spheres of triangles, increasingly fine, and the matrices of a network over their vertices.

A closed mesh that anybody can build, in place of face meshes, which cannot be redistributed.
"""

import functools

import numpy as np

__all__ = ["Mesh", "edges", "refine", "scaled_laplacian", "sphere"]


class Mesh:
    """Vertices (V, 3) and triangles (F, 3), counter-clockwise from outside.

    Args:
        vertices, triangles: these.
        enlargement: (V, W) matrix from values of the W vertices of the next coarser mesh to the V ones of this.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, enlargement: np.ndarray | None = None):
        self.vertices, self.triangles, self.enlargement = vertices, triangles, enlargement


def edges(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All edges once, (E, 2), lower vertex first; (F, 3) the index of the edge from each corner to the next."""
    ends = np.sort(np.stack([triangles, np.roll(triangles, -1, 1)], -1), -1).reshape(-1, 2)
    found, index = np.unique(ends, axis=0, return_inverse=True)
    return found, index.reshape(-1, 3)


def refine(mesh: Mesh) -> Mesh:
    """Split every triangle into four, with new vertices in the middle of the edges, projected onto the unit sphere."""
    ends, index = edges(mesh.triangles)
    count = len(mesh.vertices)
    matrix = np.zeros((count + len(ends), count))
    matrix[:count] = np.eye(count)
    matrix[count + np.arange(len(ends))[:, None], ends] = 0.5
    vertices = matrix @ mesh.vertices
    (a, b, c), (ab, bc, ca) = mesh.triangles.T, count + index.T
    triangles = np.concatenate([np.stack(x, 1) for x in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return Mesh(vertices / np.linalg.norm(vertices, axis=1, keepdims=True), triangles, matrix)


@functools.cache
def sphere(level: int) -> Mesh:
    """The icosahedron (12 vertices) at level 0, after each refinement of it (42, 162, 642, ...) at the next ones."""
    if level:
        return refine(sphere(level - 1))
    golden = (1 + np.sqrt(5)) / 2
    vertices = np.array([np.roll((0, a, b * golden), shift) for shift in range(3) for a in (-1, 1) for b in (-1, 1)])
    near = np.isclose(np.linalg.norm(vertices[:, None] - vertices, axis=2), 2)
    found = [(i, j, k) for i, j, k in np.argwhere(near[:, :, None] & near[:, None] & near[None]) if i < j < k]
    triangles = np.array(found)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    inwards = (np.cross(b - a, c - a) * a).sum(1) < 0
    triangles[inwards] = triangles[inwards][:, ::-1]
    return Mesh(vertices / np.linalg.norm(vertices, axis=1, keepdims=True), triangles)


def scaled_laplacian(triangles: np.ndarray, num_vertices: int) -> np.ndarray:
    """Normalised Laplacian of a mesh with its eigenvalues brought from [0, largest] to [-1, 1].  (V, V)."""
    ends, _ = edges(triangles)
    adjacent = np.zeros((num_vertices, num_vertices))
    adjacent[ends[:, 0], ends[:, 1]] = adjacent[ends[:, 1], ends[:, 0]] = 1
    degree = adjacent.sum(1)
    laplacian = np.eye(num_vertices) - adjacent / np.sqrt(degree[:, None] * degree)
    return 2 * laplacian / np.linalg.eigvalsh(laplacian)[-1] - np.eye(num_vertices)
