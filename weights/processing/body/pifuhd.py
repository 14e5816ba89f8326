"""From probabilities of points to a surface: a grid that is refined where they change, marching cubes, a file.

"PIFuHD", 2020, arXiv:2004.00452; numbers: facebookresearch/pifuhd ``lib/sdf.py``, ``lib/mesh_util.py`` (CC-BY-NC 4.0,
only formulas are taken). Marching cubes are those of scikit-image (BSD-3).
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from skimage.measure import marching_cubes

__all__ = ["colours_of_normals", "occupancy_grid", "reconstruct", "surface", "write_mesh"]

CELLS = 64  # of the first grid, in each direction


def occupancy_grid(
    field: Callable[[np.ndarray], np.ndarray], resolution: int = 512, flat: float = 0.05, chunk: int = 50_000
) -> np.ndarray:
    """Values on a grid of the cube from -1 to 1, upper end excluded.

    Where the corners of a cell are nearly equal, all points inside get the middle value instead of their own. The
    reference also writes it to the corner with the lowest indices, which changes that by less than half of ``flat``.

    Args:
        field: from points (P, 3) to values (P,).
        resolution: points R in each direction, a power of 2.
        flat: difference of a cell's corners below which nothing inside is evaluated.
        chunk: points evaluated at once.

    Returns:
        (R, R, R) float32, axes in the order of the coordinates.

    Raises:
        ValueError: if ``resolution`` is not a power of 2.
    """
    if resolution < 2 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution} must be a power of 2")
    axis = 2 * np.arange(resolution) / resolution - 1
    values = np.zeros((resolution,) * 3, np.float32)
    known = np.zeros(values.shape, bool)
    step = max(resolution // CELLS, 1)
    while True:
        index = step * np.argwhere(~known[::step, ::step, ::step])
        for first in range(0, len(index), chunk):
            part = index[first : first + chunk]
            values[tuple(part.T)] = field(axis[part])
        known[::step, ::step, ::step] = True
        if step == 1:
            return values
        _fill(values, known, step, flat)
        step //= 2


def _fill(values: np.ndarray, known: np.ndarray, step: int, flat: float) -> None:
    """Fill the unknown points of cells whose corners are nearly equal."""
    nodes = values[::step, ::step, ::step]
    ends = [(slice(None, -1), slice(1, None))] * 3
    corners = [nodes[place] for place in itertools.product(*ends)]
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    inner = (slice(0, step * low.shape[0]),) * 3

    def spread(x):
        return x.repeat(step, 0).repeat(step, 1).repeat(step, 2)

    new = spread(high - low < flat) & ~known[inner]
    values[inner][new] = spread((low + high) / 2)[new]
    known[inner][new] = True


def surface(values: np.ndarray, calib: np.ndarray | None = None, level: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The surface where values pass a level.

    Args:
        values: (R, R, R) of the grid of :func:`occupancy_grid`.
        calib: (4, 4), from space to the cube; space is the cube if None.
        level: of the surface; inside values are larger.

    Returns:
        (V, 3) vertices in space, (F, 3) int64 triangles, counter-clockwise from outside; none if there is no surface.
    """
    if not values.min() < level < values.max():
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    vertices, faces, *_ = marching_cubes(values, level, gradient_direction="ascent")
    back = np.eye(4) if calib is None else np.linalg.inv(calib)
    vertices = (2 * vertices.astype(np.float64) / len(values) - 1) @ back[:3, :3].T + back[:3, 3]
    mirrored = np.linalg.det(back[:3, :3]) < 0
    return vertices, (faces[:, ::-1] if mirrored else faces).astype(np.int64)


def reconstruct(
    field: Callable[[np.ndarray], np.ndarray], calib: np.ndarray, resolution: int = 512, flat: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a field over points in space.

    Args:
        field: from points (P, 3) in space to probabilities (P,), such as a network of ``body.pifuhd``.
        calib: (4, 4), from space to the cube.
        resolution, flat: see :func:`occupancy_grid`.

    Returns:
        As for :func:`surface`.
    """
    back = np.linalg.inv(calib)
    values = occupancy_grid(lambda points: field(points @ back[:3, :3].T + back[:3, 3]), resolution, flat)
    return surface(values, calib)


def colours_of_normals(normals: np.ndarray) -> np.ndarray:
    """Directions (V, 3) as colours in [0, 1]."""
    return 0.5 * normals + 0.5


def write_mesh(path: Path | str, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None = None) -> None:
    """Write a mesh file.

    Args:
        path: its suffix, ``.obj`` or ``.ply``, determines the format.
        vertices, faces: see :func:`surface`.
        colours: (V, 3) in [0, 1]: after the vertices in ``.obj``, bytes in ``.ply``.

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    if path.suffix not in (".obj", ".ply"):
        raise ValueError(f"path={str(path)!r} must end with '.obj' or '.ply'")
    rows = [" ".join(f"{x:.6f}" for x in row) for row in vertices]
    if path.suffix == ".obj":
        if colours is not None:
            rows = [f"{row} " + " ".join(f"{x:.4f}" for x in of) for row, of in zip(rows, colours, strict=True)]
        lines = [f"v {row}" for row in rows] + [f"f {a} {b} {c}" for a, b, c in faces + 1]
    else:
        names = [f"property float {axis}" for axis in "xyz"]
        if colours is not None:
            names += [f"property uchar {name}" for name in ("red", "green", "blue")]
            levels = np.rint(255 * np.clip(colours, 0, 1)).astype(int)
            rows = [f"{row} " + " ".join(map(str, of)) for row, of in zip(rows, levels, strict=True)]
        lines = ["ply", "format ascii 1.0", f"element vertex {len(vertices)}", *names]
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
        lines += rows + [f"3 {a} {b} {c}" for a, b, c in faces]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
