"""Stacks of slices as the input of a network."""

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from weights.processing.images import PictureError

__all__ = ["open_volume", "padded"]

CELLS = (2, 16, 16)  # slices, rows and columns that a network halves to nothing less than one


def open_volume(path) -> np.ndarray:
    """The slices of a file of several pictures, such as a TIFF.

    Returns:
        (D, H, W) float32; the brightest voxel is 1.

    Raises:
        PictureError: if it cannot be read, has colours or slices of several sizes, or is dark everywhere.
    """
    try:
        with Image.open(path) as file:
            slices = [np.asarray(frame) for frame in ImageSequence.Iterator(file)]
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: cannot be read as a stack of slices ({error}); give a TIFF") from None
    if len({(one.shape, one.dtype) for one in slices}) != 1 or slices[0].ndim != 2:
        raise PictureError(f"{path}: slices of one size, in grey, were expected")
    volume = np.stack(slices).astype(np.float32)
    if not (np.isfinite(volume).all() and volume.min() >= 0 < volume.max()):
        raise PictureError(f"{path}: voxels from 0 on, some of them brighter, were expected")
    return volume / volume.max()


def padded(volume: np.ndarray) -> np.ndarray:
    """A volume with dark voxels after its end, up to sizes that the network takes.  (D, H, W) -> (D', H', W')."""
    return np.pad(volume, [(0, -length % cell) for length, cell in zip(volume.shape, CELLS, strict=True)])
