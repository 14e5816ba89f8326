"""Around 3DDFA's network: which part of an image it looks at, and what its numbers mean.

Numbers: cleardusk/3DDFA ``utils/inference.py``, ``utils/ddfa.py``, ``utils/estimate_pose.py`` (MIT).
"""

import numpy as np

__all__ = [
    "angles",
    "box_around",
    "box_around_landmarks",
    "crop",
    "in_image",
    "parse_pose",
    "reconstruct",
    "rotation",
]

SIZE = 120  # side of the network's input


def box_around(face: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The square that the network looks at, from a detector's box; both xyxy in pixels."""
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
        numbers: (62,) as they are, not whitened.
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
    """Scale, rotation (3, 3) and shift (3,) of a pose (3, 4); its third row is made of the first two."""
    first, second = matrix[0, :3], matrix[1, :3]
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    first, second = first / lengths[0], second / lengths[1]
    return float(sum(lengths) / 2), np.stack([first, second, np.cross(first, second)]), matrix[:, 3]


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """The rotation of which :func:`angles` finds these three, radians."""
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
