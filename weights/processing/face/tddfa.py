"""Around 3DDFA's network: which part of an image it sees, and what its outputs mean.

Numbers: cleardusk/3DDFA ``utils/inference.py``, ``utils/ddfa.py``, ``utils/estimate_pose.py`` (MIT).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = [
    "Face",
    "FaceError",
    "angles",
    "box_around",
    "box_around_landmarks",
    "crop",
    "in_image",
    "parse_pose",
    "read_face",
    "reconstruct",
    "rotation",
    "synthetic_face",
]

SIZE = 120  # size of the network's input
NUMBERS, POSE = 62, 12  # parameters of a face, and of its pose; the others are 40 of the shape, 10 of the expression


class FaceError(ValueError):
    """A file is not a face model; one line says which and why."""


@dataclass(frozen=True)
class Face:
    """The face model whose parameters the network predicts.

    ``mean`` (V, 3), ``bases`` (V, 3, 50), ``triangles`` (F, 3) int64; ``param_mean`` and ``param_std`` (62,), which
    normalise the parameters.
    """

    mean: np.ndarray
    bases: np.ndarray
    triangles: np.ndarray
    param_mean: np.ndarray
    param_std: np.ndarray


def read_face(path: str | Path) -> Face:
    """A face model from arrays.

    Args:
        path: a .npz file with ``u`` (3 V,) or (3 V, 1), the mean of shape and expression together, ``w_shp`` (3 V, 40),
            ``w_exp`` (3 V, 10), ``param_mean`` and ``param_std`` (62,), and ``triangles`` (F, 3), counted from 0; x, y
            and z of a vertex are adjacent. They come from the reference's ``train.configs``.

    Raises:
        FaceError: if the file is something else, or an array is missing or does not fit.
    """
    keys = ("u", "w_shp", "w_exp", "param_mean", "param_std", "triangles")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in keys}
    except (OSError, ValueError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FaceError(f"{path}: not a file of arrays ({reason}); give a .npz file") from None
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise FaceError(f"{path}: lacks {', '.join(missing)}; a face has {', '.join(keys)}")
    length = arrays["u"].size
    shapes = {"w_shp": (length, 40), "w_exp": (length, 10), "param_mean": (NUMBERS,), "param_std": (NUMBERS,)}
    wrong = [key for key, shape in shapes.items() if arrays[key].shape != shape]
    triangles = arrays["triangles"]
    fits = triangles.ndim == 2 and triangles.shape[1] == 3 and triangles.dtype.kind in "iu"
    if not (fits and triangles.size and triangles.min() >= 0 and triangles.max() < length // 3):
        wrong.append("triangles")
    if length % 3 or wrong:
        told = ", ".join(f"{key} {arrays[key].shape}" for key in wrong or ["u"])
        raise FaceError(f"{path}: {told} does not fit {length} coordinates of vertices")
    bases = np.concatenate([arrays["w_shp"], arrays["w_exp"]], 1).reshape(-1, 3, 50).astype(np.float64)
    return Face(
        arrays["u"].reshape(-1, 3).astype(np.float64),
        bases,
        triangles.astype(np.int64),
        *(arrays[key].astype(np.float64) for key in ("param_mean", "param_std")),
    )


def synthetic_face(side: int = 33) -> Face:
    """A synthetic face model: half an egg in the middle of the crop, with a nose, deformed by waves."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
    mean = np.stack([36 * x, 46 * y, 30 * np.sqrt(np.maximum(1.05 - x**2 / 2 - y**2 / 2, 0)) - 20], -1)
    mean[..., 2] += 12 * np.exp(-((x / 0.15) ** 2) - (y / 0.3) ** 2)
    k = np.arange(1, 51)
    waves = np.sin(x[..., None] * np.pi * (k % 7 + 1) / 2 + k) * np.cos(y[..., None] * np.pi * (k // 7 + 1) / 2)
    directions = np.stack([np.sin(k), np.cos(2 * k), np.cos(k)])  # (3, 50)
    bases = (waves[..., None, :] * directions).reshape(-1, 3, 50) / k
    first = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    corners = np.stack([first, first + 1, first + side, first + side + 1], 1)
    triangles = np.concatenate([corners[:, [0, 1, 2]], corners[:, [1, 3, 2]]])
    pose = np.concatenate([np.eye(3), [[SIZE / 2], [SIZE / 2], [0]]], 1).ravel()
    std = np.concatenate([[0.1, 0.1, 0.1, 3] * 3, np.ones(50)])
    return Face(mean.reshape(-1, 3), bases, triangles, np.concatenate([pose, np.zeros(50)]), std)


def box_around(face: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The square that the network sees, from a detector's box; both xyxy in pixels."""
    left, top, right, bottom = face
    size = (right - left + bottom - top) / 2
    x, y = right - (right - left) / 2, bottom - (bottom - top) / 2 + 0.14 * size
    half = int(1.58 * size) / 2
    return x - half, y - half, x - half + 2 * half, y - half + 2 * half


def box_around_landmarks(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """The same from landmarks (2, P), x and y: as wide as the diagonal of the square around them."""
    low, high = landmarks.min(1), landmarks.max(1)
    radius = (high - low).max() / 2
    half = radius * 2**0.5
    x, y = (low + high) / 2
    return x - half, y - half, x + half, y + half


def crop(image: np.ndarray, box: tuple[float, float, float, float], size: int = SIZE) -> np.ndarray:
    """A square of an image (H, W, C), zeros outside, as (size, size, C) float32, bilinear.

    Raises:
        ValueError: if the box is empty.
    """
    left, top, right, bottom = (round(n) for n in box)
    if right <= left or bottom <= top:
        raise ValueError(f"box={tuple(box)} is empty; left < right and top < bottom were expected")
    height, width = image.shape[:2]
    cut = np.zeros((bottom - top, right - left, image.shape[2]), np.float32)
    rows = slice(max(top, 0), max(min(bottom, height), 0))
    columns = slice(max(left, 0), max(min(right, width), 0))
    inside = image[rows, columns]
    if inside.size:
        y, x = rows.start - top, columns.start - left
        cut[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    for axis in (0, 1):
        length = cut.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = place.astype(int)
        high, part = np.minimum(low + 1, length - 1), (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        cut = np.take(cut, low, axis) * (1 - part) + np.take(cut, high, axis) * part
    return cut.astype(np.float32)


def reconstruct(numbers: np.ndarray, mean: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """Vertices in the frame of the crop, y upwards.

    Args:
        numbers: (62,), not normalised.
        mean: (V, 3).
        bases: (V, 3, 50) of shape and expression.

    Returns:
        (3, V).
    """
    pose = numbers[:12].reshape(3, 4)
    return pose[:, :3] @ (mean + bases @ numbers[12:]).T + pose[:, 3:]


def in_image(vertices: np.ndarray, box: tuple[float, float, float, float], size: int = SIZE) -> np.ndarray:
    """Vertices (3, V) of the crop in the pixels of the image, y downwards."""
    left, top, right, bottom = box
    scale = np.array([(right - left) / size, (bottom - top) / size])
    x, y = vertices[0] * scale[0] + left, (size + 1 - vertices[1]) * scale[1] + top
    depth = vertices[2] * scale.mean()
    return np.stack([x, y, depth - depth.min()])


def parse_pose(matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation (3, 3) and shift (3,) of a pose (3, 4); its third row follows from the first two."""
    first, second = matrix[0, :3], matrix[1, :3]
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    first, second = first / lengths[0], second / lengths[1]
    return float(sum(lengths) / 2), np.stack([first, second, np.cross(first, second)]), matrix[:, 3]


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """The rotation with these angles, the inverse of :func:`angles`, radians."""
    (cp, cy, cr), (sp, sy, sr) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def angles(turn: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a rotation, radians; where the face looks straight to a side, the roll is 0."""
    if abs(turn[2, 0]) < 1 - 1e-12:
        yaw = np.arcsin(turn[2, 0])
        pitch = np.arctan2(turn[2, 1] / np.cos(yaw), turn[2, 2] / np.cos(yaw))
        roll = np.arctan2(turn[1, 0] / np.cos(yaw), turn[0, 0] / np.cos(yaw))
        return float(yaw), float(pitch), float(roll)
    if turn[2, 0] < 0:
        return float(-np.pi / 2), float(np.arctan2(turn[0, 1], turn[0, 2])), 0.0
    return float(np.pi / 2), float(np.arctan2(-turn[0, 1], -turn[0, 2])), 0.0
