"""Images as the input of a network: read with Pillow, resized and normalised as a checkpoint was trained."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weights.catalog import INTERPOLATIONS

__all__ = ["PictureError", "image_input", "open_picture"]

MAX_PIXELS = 80_000_000  # of a file, and of its resized image; Pillow itself warns slightly above
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # none that starts another program, like EPS
CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class PictureError(ValueError):
    """An image cannot be read or has no content; one line says which and why."""


def open_picture(source, channels: str = "RGB"):
    """Open an image with the given channels ("RGB", "BGR" is swapped later, or "L").

    EXIF orientation is applied, transparency is blended with white, 16 bits are scaled to 8, and of an animation the
    first frame is taken.

    Args:
        source: a path, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, or (H, W) of bool or uint16.
        channels: "RGB", "BGR" or "L".

    Raises:
        PictureError: if the file is missing, no image, damaged, larger than ``MAX_PIXELS`` or of size 0.
        ValueError: if the channels are unknown.
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels={channels!r}; one of {', '.join(CHANNELS)} was expected")
    name = str(source) if isinstance(source, (str, Path)) else "the array"
    try:
        with warnings.catch_warnings():
            from PIL import Image

            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _read(name, source) if isinstance(source, (str, Path)) else _from_array(name, source)
        return _converted(picture, "L" if channels == "L" else "RGB")
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file; check the path") from None
    except Exception as error:  # Pillow's decoders raise almost anything for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise PictureError(f"{name}: not a picture that can be read ({reason}); give a sound PNG or JPEG") from None


def _read(name: str, source):
    from PIL import Image, ImageOps, UnidentifiedImageError

    if Path(source).exists() and not (Path(source).is_file() or Path(source).is_dir()):
        raise PictureError(f"{name}: a pipe or a device, and a file was expected; write the picture to one")
    try:
        with Image.open(source, formats=FORMATS) as file:
            _check_size(name, file.size)
            file.load()
            return ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        raise PictureError(f"{name}: not a picture; one of {', '.join(FORMATS)} was expected") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller") from None


def _from_array(name: str, source):
    from PIL import Image

    array = np.asarray(source)
    if array.size == 0:
        raise PictureError(f"{name}: a picture of size {array.shape} has no content")
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if not (
        (flat.ndim == 2 and flat.dtype in (np.uint8, np.uint16, np.bool_))
        or (flat.ndim == 3 and flat.shape[2] in (3, 4) and flat.dtype == np.uint8)
    ):
        expected = "(H, W), (H, W, 3) or (H, W, 4) of uint8 was expected"
        raise PictureError(f"{name}: {array.dtype} of shape {array.shape} is no picture; {expected}")
    _check_size(name, flat.shape[1::-1])
    return Image.fromarray(np.ascontiguousarray(flat))


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name}: a picture of {width} x {height} pixels has no content")
    if width * height > MAX_PIXELS:
        raise PictureError(f"{name}: {width} x {height} pixels are more than {MAX_PIXELS:,}; make it smaller")


def _converted(picture, mode: str):
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):  # to 8 bits; Pillow itself would clip
        values = np.nan_to_num(np.asarray(picture, np.float64))
        white = 65535 if picture.mode.startswith("I;16") or values.max() > 255 else 255
        picture = Image.fromarray(np.round(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode == "LAB":
        picture = picture.convert("RGB")  # Pillow has no other way
    return picture.convert(mode)


def image_input(source, preprocessing: Mapping) -> np.ndarray:
    """An image as a batch of one.

    Args:
        source: see :func:`open_picture`.
        preprocessing: of a checkpoint: ``resize`` (length of the shorter side), ``crop`` (size of the square in the
            middle; black beyond the image), ``interpolation`` ("bilinear" by default, antialiased),
            ``scale`` (of values in [0, 255]; 1/255 by default), ``mean`` and ``std`` (of scaled values, in the order
            of the channels), ``channels`` ("RGB" by default, "BGR", "L").

    Returns:
        float32 (1, C, H, W).

    Raises:
        PictureError: see :func:`open_picture`; also if the resized image would be larger than ``MAX_PIXELS``.
        ValueError: if a value of ``preprocessing`` is not one of these.

    Source: torchvision.transforms (Resize, CenterCrop, ToTensor, Normalize) on Pillow images.
    """
    from PIL import Image

    channels = preprocessing.get("channels", "RGB")
    picture = open_picture(source, channels)
    interpolation = preprocessing.get("interpolation", "bilinear")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation={interpolation!r}; one of {', '.join(INTERPOLATIONS)} was expected")
    if "resize" in preprocessing:
        size = _resized(picture.size, _positive("resize", preprocessing["resize"]))
        _check_size("the resized picture", size)
        picture = picture.resize(size, Image.Resampling[interpolation.upper()])
    if "crop" in preprocessing:
        picture = _center_crop(picture, _positive("crop", preprocessing["crop"]))
    values = np.asarray(picture, np.float32)
    values = values[..., None] if values.ndim == 2 else values
    values = values[..., ::-1] if channels == "BGR" else values
    scale = preprocessing.get("scale")
    values = values / np.float32(255) if scale is None else values * np.float32(scale)
    mean, std = (
        _per_channel(key, preprocessing.get(key, default), channels) for key, default in (("mean", 0), ("std", 1))
    )
    if not std.all():
        raise ValueError(f"std={preprocessing['std']!r}; values other than 0 were expected")
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)[None])


def _positive(key: str, value) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{key}={value!r}; a positive number of pixels was expected")
    return value


def _per_channel(key: str, value, channels: str) -> np.ndarray:
    found = np.asarray(value, np.float32)
    if found.shape not in ((), (1,), (CHANNELS[channels],)):
        raise ValueError(f"{key}={value!r}; one number for each channel of {channels} was expected")
    return found


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) with the shorter side given, the longer one rounded down, as torchvision does."""
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _center_crop(picture, side: int):
    """The square in the middle; the odd pixel of a black border is on the right or at the bottom."""
    left, top = (round((length - side) / 2) if length >= side else -((side - length) // 2) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))
