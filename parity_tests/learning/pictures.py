"""Crops of scikit-image's photographs. The left part of each is for training, the right part is held out."""

from functools import cache

import numpy as np
from skimage import data

__all__ = ["LUMA", "moving", "pairs", "sequences"]

BORDER = 0.6  # share of a photograph's width that is for training
COLOURED = ("astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket")
LUMA = (0.299, 0.587, 0.114)
FRAME, OBJECT = 176, (28, 45)  # sides of a frame and of what moves in it, pixels


@cache
def coloured(name: str) -> np.ndarray:
    """A photograph (3, H, W) in [0, 1]."""
    return np.ascontiguousarray((getattr(data, name)() / 255).transpose(2, 0, 1))


def crops(picture: np.ndarray, rng, count: int, size: int, training: bool = True) -> np.ndarray:
    """Random crops (count, ..., size, size) of a photograph (..., H, W), of its left or of its right part."""
    height, width = picture.shape[-2:]
    border = int(BORDER * width)
    top = rng.integers(0, height - size + 1, count)
    left = rng.integers(0, border - size + 1, count) if training else rng.integers(border, width - size + 1, count)
    return np.stack([picture[..., y : y + size, x : x + size] for y, x in zip(top, left, strict=True)])


def pairs(step: int, count: int, size: int, training: bool = True) -> np.ndarray:
    """Colour crops (count, 3, size, size) in [0, 1], in turn of the ``COLOURED``."""
    rng = np.random.default_rng((4 if training else 5, step))
    return np.concatenate(
        [crops(coloured(COLOURED[(step + i) % len(COLOURED)]), rng, 1, size, training) for i in range(count)]
    )


def moving(rng, count: int, speed: float, training: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A piece of one photograph moves over another one, and is thrown back where the frame ends.

    Args:
        rng: of the photographs, of their parts, and of the way.
        count: frames.
        speed: most pixels that it moves from frame to frame, in each direction.
        training: see :func:`crops`.

    Returns:
        (count, FRAME, FRAME, 3) uint8; (count, 4) left, top, width and height of the piece, pixels.
    """
    names = rng.choice(COLOURED, 2, replace=False)
    height, width = rng.integers(*OBJECT, 2)
    (ground,), (piece,) = (
        crops(coloured(name), rng, 1, side, training) for name, side in zip(names, (FRAME, max(OBJECT)), strict=True)
    )
    room = FRAME - np.array([width, height])
    way = rng.uniform(0, room) + np.arange(count)[:, None] * rng.uniform(-speed, speed, 2)
    corners = np.round(room - np.abs(room - way % (2 * room))).astype(int)
    frames = np.repeat(ground[None], count, 0)
    for frame, (x, y) in zip(frames, corners, strict=True):
        frame[:, y : y + height, x : x + width] = piece[:, :height, :width]
    boxes = np.concatenate([corners, np.tile([width, height], (count, 1))], 1)
    return (255 * frames).round().astype(np.uint8).transpose(0, 2, 3, 1), boxes


def sequences(many: int = 6, count: int = 16) -> list[tuple[np.ndarray, np.ndarray]]:
    """As :func:`moving`, of the parts of the photographs that training does not see."""
    return [moving(np.random.default_rng((10, i)), count, 8, False) for i in range(many)]
