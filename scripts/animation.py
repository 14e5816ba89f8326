"""``diptych predict fomm``: a photo that moves like the frames of a video, frame by frame in four engines."""

import contextlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from scripts import draw, frames
from scripts.answer import ENGINES, agreement, answered
from scripts.files import TORCH_FILES, asked, read, twins
from scripts.output import Problem, frameworks
from scripts.parts import Part
from scripts.questions import Request, as_picture, one_picture, summary
from weights import catalog
from weights.processing.face.fomm import movement_scale, relative_motion
from weights.processing.images import image_input, open_picture

__all__ = ["ask"]

PARTS = ("kp_detector", "generator")
OF_DETECTOR = {"kp_expansion": "block_expansion", "kp_features": "max_features", "kp_blocks": "num_blocks"}
SHARED = ("num_kp", "scale_factor")  # options of both
OF_JUDGE = ("adversarial", "patch_expansion", "patch_features", "patch_blocks", "sn", "use_kp")  # of neither

Arrays = dict[str, np.ndarray]


def state_of(model: catalog.Model, weights: str | None, options: Mapping | None, key: str | None) -> Arrays:
    """Tensors of both networks under the whole model's names; a published file has a set for each of them."""
    if weights and key is None and weights.lower().endswith(TORCH_FILES) and Path(weights).is_file():
        with contextlib.suppress(Problem):  # one set of all
            sets = {part: read(Path(weights), part) for part in PARTS}
            return {f"{part}.{name}": tensor for part, found in sets.items() for name, tensor in found.items()}
    return twins(model, weights, ("torch",), options, key)[0]["torch"].state()


def parts_of(model: catalog.Model, weights: str | None, folder: Path, options: Mapping, key: str | None) -> list[Part]:
    """Build the point detector and the generator."""
    state = state_of(model, weights, options, key)
    shared = {name: value for name, value in options.items() if name in SHARED}
    detector = {OF_DETECTOR[name]: value for name, value in options.items() if name in OF_DETECTOR}
    others = {name: value for name, value in options.items() if name not in (*OF_DETECTOR, *SHARED, *OF_JUDGE)}
    own = [shared | detector, shared | others]
    return [
        Part(
            catalog.get(f"fomm_{part}"),
            chosen,
            {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")},
            weights or "the checkpoint",
            folder,
        )
        for part, chosen in zip(PARTS, own, strict=True)
    ]


class Animation:
    """A moving photo, driven by one engine.

    Args:
        detector, generator: the networks.
        engine: its name.
        source: (1, 3, H, W) in [0, 1].
    """

    def __init__(self, detector: Part, generator: Part, engine: str, source: np.ndarray):
        self.generator, self.engine, self.source = generator, engine, source
        self.points = lambda image: detector(engine, {"images": image})
        self.start, self.first, self.scale = self.points(source), None, 1.0

    def step(self, driving: np.ndarray) -> np.ndarray:
        """The image (1, 3, H, W) for a driving frame."""
        points = self.points(driving)
        if self.first is None:
            self.first, self.scale = points, movement_scale(self.start, points)
        moved = relative_motion(self.start, points, self.first, self.scale)
        feed = {"source": self.source}
        for name, found in (("source", self.start), ("driving", moved)):
            feed |= {f"{name}_{key}": found[key] for key in ("value", "jacobian")}
        return self.generator(self.engine, feed)["prediction"]


def ask(
    model: catalog.Model,
    request: Request,
    weights: str | None,
    folder: Path,
    options: Mapping | None = None,
    key: str | None = None,
    draw_to: Path | None = None,
) -> dict:
    """Ask four engines for the source in every frame; the ONNX files stay in the folder.

    Returns and raises: see :func:`scripts.answer.ask`.
    """
    if request.frames is None:
        raise Problem(
            f"{model.name} moves a picture as the frames of a folder or a video move; give them with --frames"
        )
    path = one_picture(model, request)
    if draw_to is not None:
        frames.check(draw_to)
    checkpoint = weights or model.checkpoint().name
    size = model.inputs["source"].shape[:1:-1]

    def fitted(picture: Image.Image) -> np.ndarray:
        return image_input(np.asarray(picture.resize(size)), {})

    picture = open_picture(path)
    sequence = frames.Frames([str(request.frames)])
    stream = iter(sequence)
    start = list(itertools.islice(stream, 1))
    if not start:
        raise Problem(f"--frames {request.frames}: no frame in it, and one or more were expected")
    frameworks()
    with asked(", ".join([str(path), str(request.frames)])):
        parts = parts_of(model, weights, folder, options or {}, key)
        animations = {engine: Animation(*parts, engine, fitted(picture)) for engine in ENGINES}
        for animation in animations.values():  # creates and warms up the generators
            animation.step(fitted(Image.fromarray(start[0][1])))
    rows = {engine: [] for engine in ENGINES}
    seconds = {engine: [] for engine in ENGINES}
    worst = 0.0
    with contextlib.ExitStack() as stack:
        write = None if draw_to is None else stack.enter_context(frames.writer(draw_to, sequence))
        for title, frame in itertools.chain(start, stream):
            driving, made = Image.fromarray(frame), {}
            for engine, animation in animations.items():
                begun = time.perf_counter()
                made[engine] = animation.step(fitted(driving))
                seconds[engine].append(time.perf_counter() - begun)
                rows[engine].append(summary(title, 255 * made[engine][0]))
            worst = max(worst, agreement({engine: {"prediction": image} for engine, image in made.items()}))
            if write is not None:
                shown = {engine: as_picture(255 * image[0]) for engine, image in made.items()}
                write(draw.side_by_side({"source": picture.resize(size), "driving": driving.resize(size), **shown}))
    files = parts[0].files | parts[1].files
    return answered(model.name, checkpoint, [path, request.frames], worst, files, seconds, rows)
