"""scikit-learn's digits, where pixels say little: each at a random place of a larger picture, or under noise.

Pixel by pixel, two digits at one place are more alike than one digit at two; and of an enlarged digit under noise, most
of a distance is noise. Losses that know the classes have to find a digit wherever it lies; contrastive systems have to
find out that only the noise differs between two views. The last 40 of each digit are held out. Their recall is the
share of them whose nearest neighbour, among the other ones, is the same digit; chance is 9.8 %.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

__all__ = ["CLASSES", "batch", "digits", "held_out", "held_out_noisy", "placed", "views"]

CLASSES = 10
DIGIT, SIZE = 8, 16  # sides of a digit and of a picture, pixels
ENLARGED = 4  # pixels of a noisy picture along one of the digit
NOISE = 4.0  # its deviation, in those of the picture
HELD_OUT = 40  # of each digit


@cache
def digits(training: bool) -> list[np.ndarray]:
    """For each class its digits (n, 8, 8) in [0, 1]."""
    found = load_digits()
    part = slice(-HELD_OUT) if training else slice(-HELD_OUT, None)
    return [found.images[found.target == label][part] / 16 for label in range(CLASSES)]


def placed(images: np.ndarray, rng) -> np.ndarray:
    """Digits (N, 8, 8) at random places of pictures (N, 16, 16) of mean 0 and deviation 1."""
    pictures = np.zeros((len(images), SIZE, SIZE))
    corners = rng.integers(0, SIZE - DIGIT + 1, (len(images), 2))
    for picture, image, (y, x) in zip(pictures, images, corners, strict=True):
        picture[y : y + DIGIT, x : x + DIGIT] = image
    return standardized(pictures)


def standardized(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W) of mean 0 and deviation 1."""
    pictures = pictures - pictures.mean((1, 2), keepdims=True)
    return pictures / pictures.std((1, 2), keepdims=True)


def noisy(images: np.ndarray, rng) -> np.ndarray:
    """Digits (N, 8, 8), enlarged and under noise, as ResNets take pictures, (N, 3, 32, 32): grey, of mean 0 and
    deviation 1."""
    pictures = standardized(images.repeat(ENLARGED, 1).repeat(ENLARGED, 2))
    pictures = standardized(pictures + NOISE * rng.standard_normal(pictures.shape))
    return pictures[:, None].repeat(3, 1)


def drawn(rng, count: int) -> np.ndarray:
    """``count`` digits of each class for training, (10 count, 8, 8)."""
    return np.concatenate([of_class[rng.choice(len(of_class), count, replace=False)] for of_class in digits(True)])


def batch(step: int, count: int = 5) -> dict[str, np.ndarray]:
    """``count`` digits of each class: images (10 count, 1, 16, 16), labels (10 count,)."""
    rng = np.random.default_rng((1, step))
    return {"images": placed(drawn(rng, count), rng)[:, None], "labels": np.repeat(np.arange(CLASSES), count)}


@cache
def held_out() -> dict[str, np.ndarray]:
    """As :func:`batch`, the 400 digits that training does not see."""
    images = placed(np.concatenate(digits(False)), np.random.default_rng(2))
    return {"images": images[:, None], "labels": np.repeat(np.arange(CLASSES), HELD_OUT)}


def views(step: int, many: int = 2, count: int = 4) -> np.ndarray:
    """``count`` digits of each class, each ``many`` times under another noise, (10 count, many, 3, 32, 32)."""
    rng = np.random.default_rng((3, step))
    images = drawn(rng, count)
    return np.stack([noisy(images, rng) for _ in range(many)], 1)


@cache
def held_out_noisy() -> dict[str, np.ndarray]:
    """The 400 digits of :func:`held_out` as :func:`noisy` ones."""
    return held_out() | {"images": noisy(np.concatenate(digits(False)), np.random.default_rng(4))}
