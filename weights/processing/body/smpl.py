"""The arrays of a published body, from its publisher's file.

Files in the old format are Python objects; they are not opened here, because that would run code: save their arrays
with ``numpy.savez`` under the same names first.
"""

from pathlib import Path

import numpy as np

__all__ = ["BodyError", "read_body", "synthetic_body"]

# of the synthetic body, metres: joints of the middle and of the left side; on the right x changes its sign
REST = {
    **{0: (0, 0, 0), 3: (0, 0.1, -0.02), 6: (0, 0.22, 0), 9: (0, 0.3, 0.02), 12: (0, 0.5, 0), 15: (0, 0.6, 0.03)},
    **{1: (0.07, -0.09, 0), 4: (0.1, -0.47, 0), 7: (0.09, -0.87, -0.03), 10: (0.11, -0.93, 0.1)},
    **{13: (0.08, 0.41, 0), 16: (0.17, 0.44, 0), 18: (0.43, 0.43, -0.03), 20: (0.68, 0.43, -0.03)},
    22: (0.77, 0.43, -0.04),
}
RIGHT = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21, 22: 23}
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
RADII = {0: 0.14, 3: 0.13, 6: 0.14, 9: 0.15, 12: 0.06, 15: 0.11}  # of the balls, metres; others have 0.06
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


class BodyError(ValueError):
    """A file is not a body model; one line says which and why."""


def read_body(path: str | Path, num_betas: int = 10) -> tuple[dict[str, np.ndarray], tuple[int, ...], np.ndarray]:
    """A body's arrays under the names of the panels' ``SMPL``.

    Args:
        path: a .npz file with ``v_template``, ``shapedirs``, ``posedirs``, ``J_regressor``, ``weights``,
            ``kintree_table`` and ``f``.
        num_betas: number of shape coefficients, the first in the file.

    Returns:
        Tensors by name, float32; the parent of every joint; the faces (F, 3).

    Raises:
        BodyError: if the file is something else, or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in KEYS}
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BodyError(f"{path}: not a file of arrays ({reason}); give a .npz file") from None
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise BodyError(f"{path}: lacks {', '.join(missing)}; a body has {', '.join(KEYS)}")
    posedirs = arrays["posedirs"]
    tensors = {
        "v_template": arrays["v_template"],
        "shapedirs": arrays["shapedirs"][..., :num_betas],
        "J_regressor": arrays["J_regressor"],
        "posedirs": posedirs.reshape(-1, posedirs.shape[-1]).T,
        "lbs_weights": arrays["weights"],
    }
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1  # the file has the largest integer
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    return tensors, tuple(int(n) for n in parents), arrays["f"].astype(np.int64)


def synthetic_body(num_betas: int = 10) -> tuple[dict[str, np.ndarray], tuple[int, ...], np.ndarray]:
    """A synthetic body: a ball around each of the 24 joints; the shape coefficients make it taller, wider, ...

    Returns:
        As for :func:`read_body`.
    """
    joints = np.zeros((len(PARENTS), 3))
    for joint, place in REST.items():
        joints[joint] = place
        if joint in RIGHT:
            joints[RIGHT[joint]] = np.multiply(place, (-1, 1, 1))
    rings, steps = 6, 10
    height, angle = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.arange(steps) * 2 * np.pi / steps, indexing="ij")
    ball = np.stack([np.sin(height) * np.cos(angle), np.cos(height), np.sin(height) * np.sin(angle)], -1).reshape(-1, 3)
    first = (np.arange(rings)[:, None] * steps + np.arange(steps)).ravel()
    right = (np.arange(rings)[:, None] * steps + (np.arange(steps) + 1) % steps).ravel()
    faces = np.concatenate(
        [np.stack([first, right, first + steps], 1), np.stack([right, right + steps, first + steps], 1)]
    )
    count, size = len(joints), len(ball)
    radii = np.array([RADII.get(joint, 0.06) for joint in range(count)])
    vertices = (joints[:, None] + radii[:, None, None] * ball).reshape(-1, 3)
    owner = np.repeat(np.eye(count), size, 0)
    k = np.arange(num_betas)
    directions = vertices[..., None] * np.stack([np.cos(k), np.sin(k + 1), np.cos(k)]) / (20 * (k + 1))
    tensors = {
        "v_template": vertices,
        "shapedirs": directions,
        "J_regressor": owner.T / size,
        "posedirs": np.zeros((9 * (count - 1), vertices.size)),
        "lbs_weights": owner,
    }
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    faces = (faces + size * np.arange(count)[:, None, None]).reshape(-1, 3)
    return tensors, PARENTS, faces.astype(np.int64)
