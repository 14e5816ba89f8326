"""Image sequences of any length: read one by one, and written completely or not at all.

A folder of images and a GIF need nothing else; a video is read and written with PyAV (``diptych[video]``).
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.output import Problem, line, writing, written
from scripts.questions import SUFFIXES, pictures_in

__all__ = ["Frames", "check", "writer"]

RATE = Fraction(25)  # frames per second if unknown
PILLOW = (*SUFFIXES, ".apng")  # what Pillow reads; anything else may be a video
VIDEOS = (".mp4", ".gif")  # written formats

Frame = tuple[str, np.ndarray]


def pyav(path: Path):
    """PyAV.

    Raises:
        Problem: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise Problem(
            f"{path}: videos need the package av, which is not installed; pip install av, or use a folder of pictures"
        ) from None
    return av


class Frames:
    """Frames of one size, read when they are asked for: of a folder by name, of a video, of an animation, of files.

    Args:
        paths: a folder, a video or an animation; or images in order.

    Iterating gives a name and (H, W, 3) uint8 RGB for each.

    Raises:
        Problem, PictureError: if there is no such file or folder, nothing in it, or a frame of another size.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths, self.rate = [Path(path) for path in paths], RATE
        first = self.paths[0]
        if len(self.paths) == 1 and first.is_dir():
            self.paths = pictures_in(first, "")
        self.single = first if self.paths == [first] else None
        if self.single and not first.exists():
            raise Problem(f"{first}: there is no such file or folder; a folder of pictures or a video was expected")

    def __iter__(self) -> Iterator[Frame]:
        known = None
        for title, frame in self._frames():
            known = known or frame.shape
            if frame.shape != known:
                sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (known, frame.shape))
                raise Problem(f"{title}: the frames have several sizes, {sizes}; give those of one sequence")
            yield title, frame

    def _frames(self) -> Iterator[Frame]:
        from weights.processing.images import open_picture

        if self.single is None:
            for path in self.paths:
                yield path.name, np.asarray(open_picture(path))
        elif self.single.suffix.lower() in PILLOW:
            yield from self._animation()
        else:
            yield from self._video()

    def _animation(self) -> Iterator[Frame]:
        from weights.processing.images import open_picture

        open_picture(self.single)  # rejects what is not an image or too large
        with Image.open(self.single) as file:
            self.rate = Fraction(1000, max(1, int(file.info.get("duration", 0)) or 40))
            for number in range(getattr(file, "n_frames", 1)):
                file.seek(number)
                yield str(number), np.asarray(file.convert("RGB"))

    def _video(self) -> Iterator[Frame]:
        av = pyav(self.single)
        try:
            with av.open(str(self.single)) as file:
                if not file.streams.video:
                    raise Problem(f"{self.single}: there is no picture in it; a video was expected")
                self.rate = file.streams.video[0].average_rate or RATE
                for number, frame in enumerate(file.decode(video=0)):
                    # phones store their orientation with the images
                    yield str(number), np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
        except av.FFmpegError as error:
            expected = "a video, an animated GIF, or a folder of pictures was expected"
            raise Problem(f"{self.single}: cannot be read ({line(error)}); {expected}") from None


def check(path: Path) -> None:
    """Reject a path that no sequence can be written to.

    Raises:
        Problem: names the file extensions, or says that the folder is not empty.
    """
    if path.suffix.lower() not in (*VIDEOS, ""):
        raise Problem(f"--draw {path}: a folder, or a file that ends in {', '.join(VIDEOS)} was expected")
    if path.suffix.lower() == ".mp4":
        pyav(path)
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Problem(f"--draw {path}: there is something already; name a folder that is new or empty")
    if not path.absolute().parent.is_dir():
        raise Problem(f"--draw {path}: the folder {path.parent} is not there; make it first")


@contextlib.contextmanager
def writer(path: Path, frames: Frames) -> Iterator[Callable[[Image.Image], None]]:
    """A function that takes each frame's image; in the end all are written, or none on an error.

    Raises:
        Problem: see :func:`check`, and if it cannot be written.
    """
    check(path)
    if not path.suffix:
        with _folder(path) as write:
            yield write
        return
    with written(path) as temporary:
        if path.suffix.lower() == ".gif":
            kept: list[Image.Image] = []
            yield lambda picture: kept.append(picture.quantize(method=Image.Quantize.FASTOCTREE))
            duration = max(20, round(1000 / frames.rate))  # viewers slow down what is faster
            kept[0].save(temporary, save_all=True, append_images=kept[1:], duration=duration, loop=0)
        else:
            with _video(temporary, frames) as write:
                yield write


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Callable[[Image.Image], None]]:
    path = Path(os.path.realpath(path))
    temporary = path.parent / f".{secrets.token_hex(8)}"
    try:
        with writing(path):
            temporary.mkdir()
            count = 0

            def write(picture: Image.Image) -> None:
                nonlocal count
                picture.save(temporary / f"{count:06}.png")
                count += 1

            yield write
            if path.is_dir():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _video(path: Path, frames: Frames) -> Iterator[Callable[[Image.Image], None]]:
    av = pyav(path)
    with av.open(str(path), "w") as file:
        stream = None

        def write(picture: Image.Image) -> None:
            nonlocal stream
            values = np.asarray(picture.convert("RGB"))
            height, width = values.shape[:2]
            values = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), "edge")  # colours are of 2 x 2 pixels
            if stream is None:
                stream = file.add_stream("libx264", rate=frames.rate)
                stream.height, stream.width = values.shape[:2]
                stream.pix_fmt = "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))

        yield write
        if stream is not None:
            file.mux(stream.encode())
