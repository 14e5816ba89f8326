"""Text lines as the input of a reader, and its classes as text."""

import math
from pathlib import Path

import numpy as np

from weights.processing.images import PictureError, open_picture

__all__ = ["characters", "decode_text", "line_input"]

WIDEST = 2**15  # pixels, of a line that is read at once; several thousand letters
NARROWEST = 16  # pixels that leave every network at least one step


def line_input(
    source,
    height: int = 64,
    width: int | None = None,
    keep_ratio: bool = True,
    interpolation: str = "bicubic",
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """An image of one line of text as a batch of one.

    Args:
        source: a path or an array, see :func:`weights.processing.images.open_picture`.
        height: of the result: 64 (EasyOCR), 48 (Khmer) or 32 (the paper's network).
        width: of the result; with ``keep_ratio`` the image is padded on the right with its last column, and only
            squeezed if it is wider. None: as wide as the image is at that height.
        keep_ratio: False stretches the image to the width (the paper: 32 x 100).
        interpolation: "bicubic" (EasyOCR) or "bilinear" (the paper).
        box: (left, top, right, bottom), the part of the image with the line, in pixels.

    Returns:
        float32 (1, 1, height, width), from -1 (black) to 1 (white).

    Raises:
        PictureError: if the image cannot be read or is too wide, or the box is empty or not inside it.
        ValueError: if ``keep_ratio`` is False and no width is given.
    """
    from PIL import Image

    if width is None and not keep_ratio:
        raise ValueError("width must be given if keep_ratio is False")
    picture = open_picture(source, "L")
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            raise PictureError(
                f"box={tuple(box)} must lie inside the picture of {picture.width} x {picture.height} pixels"
            )
        picture = picture.crop(box)
    own = math.ceil(height * picture.width / picture.height)
    if width is None and own > WIDEST:
        name = source if isinstance(source, (str, Path)) else "the array"
        size = f"{picture.width} x {picture.height}"
        raise PictureError(
            f"{name}: a line of {size} pixels would be {own:,} wide at a height of {height}; cut it to {WIDEST:,}"
        )
    wide = max(own, NARROWEST) if width is None else width
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    values = np.asarray(picture.resize((min(own, wide) if keep_ratio else wide, height), method), np.float32)
    values = np.pad(values, ((0, 0), (0, wide - values.shape[1])), "edge")
    return ((values / np.float32(255) - np.float32(0.5)) / np.float32(0.5))[None, None]


def characters(name: str) -> str:
    """The characters of classes 1, 2, ... from ``classes/<name>.txt``, one per line; class 0 is the blank."""
    path = Path(__file__).parents[1] / "classes" / f"{name.removesuffix('.txt')}.txt"
    return path.read_text(encoding="utf-8").replace("\n", "")


def decode_text(ids, characters: str) -> str:
    """The text of one row of class indices; blanks (0) and padding (-1) are dropped."""
    return "".join(characters[i - 1] for i in np.asarray(ids).ravel().tolist() if i > 0)
