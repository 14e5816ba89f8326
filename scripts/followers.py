"""The single-object trackers that keep learning or re-detect, driven by one engine: DiMP and Siam R-CNN, in parts."""

import functools
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.answer import ENGINES
from scripts.output import Problem
from scripts.parts import Part, options_of
from scripts.questions import IMAGENET
from weights import catalog
from weights.processing.tracking import dimp, siamrcnn

__all__ = ["FOLLOWERS", "Follower", "followers"]

# by model, the catalogue's names of its parts
FOLLOWERS = {
    "dimp18": ("dimp18_extract", "dimp18_filter", "dimp18_modulation", "dimp_overlaps"),
    "dimp50": ("dimp50_extract", "dimp50_filter", "dimp50_modulation", "dimp_overlaps"),
    "siamrcnn_r50": ("siamrcnn_r50_template", "siamrcnn_r50_track", "siamrcnn_similarity"),
    "siamrcnn_r101": ("siamrcnn_r101_template", "siamrcnn_r101_track", "siamrcnn_similarity"),
}
OPTIMIZER = "classifier.filter_optimizer."
# lengths that change from frame to frame
PAIRS = {
    **dict.fromkeys(("references", "reference_boxes"), ("R",)),
    **dict.fromkeys(("features", "boxes"), ("D",)),
    "image_size": (None,),
}

Arrays = dict[str, np.ndarray]


class Follower:
    """A tracker of one object.

    Args:
        model: the whole.
        make: makes the loop over frames, with fresh random numbers.
        channels: "RGB" or "BGR", of the frames that it expects.
        one_based: whether its first pixel is 1.
    """

    def __init__(self, model: catalog.Model, make: Callable, channels: str, one_based: bool = False):
        self.name, self.make = model.name, make
        self.channels = slice(None, None, 1 if channels == "RGB" else -1)
        self.first = np.array([one_based, one_based, 0, 0])

    def start(self, frame: np.ndarray, box: Sequence[float]) -> None:
        """The first frame, RGB, and the object in it: x, y, width, height in pixels, 0-based."""
        self.loop = self.make()
        self.loop.initialise(frame[..., self.channels], tuple(box + self.first))

    def step(self, frame: np.ndarray) -> list[dict]:
        """A later frame.

        Raises:
            Problem: if the network's answer is not a box.
        """
        with np.errstate(all="ignore"):
            found = self.loop.track(frame[..., self.channels])
        if not np.isfinite([*found["box"], found["score"]]).all():
            raise Problem(f"{self.name}: its box is not finite any more; were these weights trained?")
        others = {name: found[name] for name in ("mask", "state") if name in found}
        return [{"box": (found["box"] - self.first).tolist(), "score": found["score"], **others}]


def dimp_loop(parts: Sequence[Part], engine: str, state: Arrays, options: Mapping) -> dimp.DiMPTracker:
    """DiMP driven by one engine; the filter is improved in numpy."""
    extract, first, modulation, overlaps = parts
    mean, std = (np.array(IMAGENET[name], np.float32)[:, None, None] for name in ("mean", "std"))

    def maps(samples):
        return extract(engine, {"images": (samples / np.float32(255) - mean) / std})

    def initial_filter(features, boxes):
        feed = {"classification": features.astype(np.float32), "boxes": boxes.astype(np.float32)}
        return first(engine, feed)["filters"].mean(0, dtype=np.float64)

    def modulate(found, box):
        feed = {name: found[name] for name in ("fine", "coarse")}
        return modulation(engine, {**feed, "boxes": box[None].astype(np.float32)})

    def judge(looks, found, boxes):
        maps = {name: found[name] for name in ("third", "fourth")}
        vectors = {name: looks[name] for name in ("of_third", "of_fourth")}
        answer = overlaps(engine, {**maps, **vectors, "boxes": boxes[None].astype(np.float32)})
        return tuple(answer[name][0].astype(np.float64) for name in ("overlaps", "slopes"))

    learnt = {name.removeprefix(OPTIMIZER): value for name, value in state.items() if name.startswith(OPTIMIZER)}
    spacing = {name: value for name, value in options.items() if name == "bin_displacement"}
    return dimp.DiMPTracker(maps, initial_filter, dimp.FilterOptimizer(learnt, **spacing), modulate, judge)


def siamrcnn_loop(
    parts: Sequence[Part], engine: str, sides: tuple[int, int], detections: int
) -> siamrcnn.SiamRCNNTracker:
    """Siam R-CNN driven by one engine."""
    template, track, similarity = parts

    def reference(image, box):
        return template(engine, {"template": image, "template_box": box})["reference"]

    def search(reference, image, active):
        return track(engine, {"reference": reference, "images": image, "active": active})

    def alike(*values):
        return similarity(engine, dict(zip(similarity.entry.inputs, values, strict=True)))["similarity"]

    return siamrcnn.SiamRCNNTracker(reference, search, alike, detections, *sides)


def followers(
    model: catalog.Model, state: Arrays, options: Mapping, folder: Path
) -> tuple[dict[str, Follower], Mapping[str, str]]:
    """A tracker for each engine, and the ONNX files by name.

    Args:
        model: the whole.
        state: its tensors.
        options: of its builder.
        folder: of the ONNX files.
    """
    entries = [catalog.get(name) for name in FOLLOWERS[model.name]]
    dynamic = {"siamrcnn_similarity": PAIRS}
    parts = [
        Part(entry, options_of(entry, options), state, model.name, folder, dynamic.get(entry.name)) for entry in entries
    ]
    if model.module == "tracking.dimp":

        def make(engine):
            return dimp_loop(parts, engine, state, options)

    else:
        short = min(model.inputs["images"].shape[2:])
        sides = short, round(short * siamrcnn.LONG / siamrcnn.SHORT)
        detections = catalog.get(f"{model.name}_track").outputs["boxes"].shape[1]

        def make(engine):
            return siamrcnn_loop(parts, engine, sides, detections)

    channels = "RGB" if model.module == "tracking.dimp" else "BGR"
    made = {engine: Follower(model, functools.partial(make, engine), channels) for engine in ENGINES}
    return made, ChainMap(*(part.files for part in parts))
