"""A morphable face fitted to landmarks alone, and the triangles around its vertices.

Numbers: YadiraF/face3d ``morphable_model/fit.py`` (MIT).
"""

import numpy as np

__all__ = ["affine_camera", "fit_landmarks", "scale_rotation_shift", "triangles_around"]

ROUNDS = 4
SHAPE, EXPRESSION = 40.0, 20.0  # weight of the coefficients' prior


def triangles_around(triangles: np.ndarray, num_vertices: int, most: int = 8) -> np.ndarray:
    """The triangles of every vertex, (V, most) int64; padded with F, one past the last index.

    Args:
        triangles: (F, 3) vertices.
        num_vertices: V.
        most: triangles of a vertex; further ones are left out.
    """
    count = len(triangles)
    vertex, triangle = triangles.ravel(), np.repeat(np.arange(count), 3)
    order = np.argsort(vertex, kind="stable")
    vertex, triangle = vertex[order], triangle[order]
    place = np.arange(len(vertex)) - np.searchsorted(vertex, vertex)
    found = np.full((num_vertices, most), count, np.int64)
    kept = place < most
    found[vertex[kept], place[kept]] = triangle[kept]
    return found


def affine_camera(points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The affine camera (2, 4) that best maps points (P, 3) to pixels (P, 2): normalised least squares."""
    moves = []
    for x in (points, pixels):
        centre = x.mean(0)
        scale = np.sqrt(x.shape[1]) / np.linalg.norm(x - centre, axis=1).mean()
        moves.append((centre, scale))
    (p, ps), (q, qs) = moves
    ours = np.concatenate([(points - p) * ps, np.ones((len(points), 1))], 1)
    camera = np.linalg.lstsq(ours, (pixels - q) * qs, rcond=None)[0].T  # (2, 4)
    linear = camera[:, :3] * ps / qs
    return np.concatenate([linear, (camera[:, 3] / qs + q - linear @ p)[:, None]], 1)


def scale_rotation_shift(camera: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (2,) of an affine camera (2, 4)."""
    first, second = camera[0, :3], camera[1, :3]
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    first, second = first / lengths[0], second / lengths[1]
    return float(sum(lengths) / 2), np.stack([first, second, np.cross(first, second)]), camera[:, 3]


def ridge(rows: np.ndarray, wanted: np.ndarray, deviation: np.ndarray, cost: float) -> np.ndarray:
    """Coefficients (K,) for which rows @ coefficients is close to wanted (2 P,), with a prior."""
    return np.linalg.solve(rows.T @ rows + cost * np.diag(1 / deviation**2), rows.T @ wanted)


def fit_landmarks(
    pixels: np.ndarray,
    mean: np.ndarray,
    shape_base: np.ndarray,
    shape_deviation: np.ndarray,
    expression_base: np.ndarray,
    expression_deviation: np.ndarray,
) -> dict[str, np.ndarray]:
    """Pose, shape and expression alternately, each by least squares.

    Args:
        pixels: (P, 2) landmarks, y upwards.
        mean: (P, 3) of the landmarks.
        shape_base, expression_base: (P, 3, A) and (P, 3, B) of the landmarks.
        shape_deviation, expression_deviation: (A,) and (B,) of the numbers.

    Returns:
        ``"shape"`` (A,), ``"expression"`` (B,), ``"scale"``, ``"rotation"`` (3, 3), ``"shift"`` (2,).
    """
    shape, expression = np.zeros(len(shape_deviation)), np.zeros(len(expression_deviation))
    for _ in range(ROUNDS):
        face = mean + shape_base @ shape + expression_base @ expression
        scale, turn, shift = scale_rotation_shift(affine_camera(face, pixels))
        flat = scale * turn[:2]

        def seen(base, flat=flat):
            return np.einsum("ij,pjk->pik", flat, base).reshape(-1, base.shape[2])

        def rest(face, flat=flat, shift=shift):
            return (pixels - face @ flat.T - shift).ravel()

        wanted = rest(mean + shape_base @ shape)
        expression = ridge(seen(expression_base), wanted, expression_deviation, EXPRESSION)
        wanted = rest(mean + expression_base @ expression)
        shape = ridge(seen(shape_base), wanted, shape_deviation, SHAPE)
    return {"shape": shape, "expression": expression, "scale": np.array(scale), "rotation": turn, "shift": shift}
