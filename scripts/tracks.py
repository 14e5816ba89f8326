"""``diptych predict`` of trackers: one loop over frames on the host for each of four engines.

A Siamese tracker runs in two halves, the first of which only sees the first frame; SiamMask draws with a third part.
"""

import contextlib
import dataclasses
import itertools
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from scripts import draw, frames
from scripts.answer import ENGINES, agreement, answered, engines, results_of
from scripts.files import asked, export_files, twins
from scripts.followers import FOLLOWERS, Follower, followers
from scripts.output import Problem, frameworks
from scripts.parts import Part, options_of
from scripts.questions import Request
from weights import catalog
from weights.processing.tracking import centertrack, fairmot, siamfc, siamfcpp, siammask, siamrpn

__all__ = ["ask"]

# trackers of one given object, and those that find all of them
SINGLE = (
    *("siamfc_alexnet_v1", "siamfc_alexnet_v2", "siamfc_alexnet_v3"),
    *siamrpn.SETTINGS,
    *siammask.SETTINGS,
    *("siamfcpp_alexnet", "siamfcpp_googlenet"),
    *FOLLOWERS,
)
MULTIPLE = ("fairmot_dla34", "fairmot_dla34_wh2", *centertrack.SETTINGS)
SMALLEST = 2  # size of a box, pixels
SAME = 0.5  # boxes that differ by less are drawn as one, pixels
# of trackers whose layers are not built for the first frame alone
TEMPLATES = {
    "tracking.siamrpn": "siamrpn_alex_template",
    "tracking.siamrpnpp": "siamrpn_r50_l234_dwxcorr_template",
    "tracking.siammask": "siammask_template",
    "tracking.siamfcpp": "siamfcpp_alexnet_template",
    "tracking.siamfcpp_googlenet": "siamfcpp_googlenet_template",
}
OF_TRACK = ("norms", "refine", "weighted")  # options that the half for the first frame does not have
# options of the halves that make them those of another variant
VARIANTS = {
    "siamrpn_r50_l234_dwxcorr_otb": {"weighted": False},
    "siamrpn_r50_l234_dwxcorr_lt": {"channels": (128, 256, 512)},
}

Arrays = dict[str, np.ndarray]


def parts_of(model: catalog.Model, options: Mapping, state: Arrays, folder: Path) -> tuple[Part, Part, Part | None]:
    """The half for the first frame, the one for later frames and SiamMask's refinement, with the whole's tensors."""
    base = "siamrpn_r50_l234_dwxcorr" if model.module == "tracking.siamrpnpp" else model.name
    options = {**VARIANTS.get(model.name, {}), **options}
    (given, image), *searched = model.inputs.items()
    maps = catalog.Tensor(("N", "C", "H", "W"), layout="NCHW")
    bare = dataclasses.replace(model, criterion=None, postprocess=None, targets={}, checkpoints=())
    if model.module in TEMPLATES:
        template = catalog.get(TEMPLATES[model.module])
    else:
        template = {"call": "template", "inputs": {given: image}, "outputs": {"features": maps}}
        template = dataclasses.replace(bare, name=f"{model.name}_template", **template)
    if f"{base}_track" in catalog.load():
        track = catalog.get(f"{base}_track")
    else:
        track = {"call": "track", "inputs": {"template": maps, **dict(searched)}}
        track = dataclasses.replace(bare, name=f"{model.name}_track", **track)
    of_template = {name: value for name, value in options.items() if name not in OF_TRACK}
    own = (state, model.name, folder)
    refine = catalog.load().get(f"{base}_refine")
    return (
        Part(template, of_template, *own),
        Part(track, options, *own),
        refine and Part(refine, options_of(refine, options), *own),
    )


def siamese(model: catalog.Model, template: Part, track: Part, refine: Part | None, engine: str) -> Follower:
    """A single-object tracker driven by one engine.

    Args:
        model: the whole.
        template, track: the halves.
        refine: what draws the mask of one cell, if the tracker has it.
        engine: its name.
    """
    one_based = model.module == "tracking.siamfc"

    def first(crop):
        (name,) = template.entry.inputs
        found = template(engine, {name: crop})
        *names, _ = track.entry.inputs
        return found if len(names) > 1 else dict(zip(names, found.values(), strict=True))  # of any order

    def later(memory, crop):
        *_, search = track.entry.inputs
        again = {name: np.repeat(memory[name], len(crop), 0) for name in track.entry.inputs if name != search}
        return track(engine, {**again, search: crop})

    def make():
        if one_based:
            sizes = {"cells": 33, "stride": 4} if model.name == "siamfc_alexnet_v2" else {}
            return siamfc.SiamFCTracker(first, lambda memory, crop: later(memory, crop)["response"], **sizes)
        if model.module.startswith("tracking.siamfcpp"):
            return siamfcpp.SiamFCPPTracker(first, later)
        if model.module == "tracking.siammask":
            drawn = refine and (lambda feed: next(iter(refine(engine, feed).values())))
            return siammask.SiamMaskTracker(first, later, drawn, **siammask.SETTINGS[model.name])
        return siamrpn.SiamRPNTracker(first, later, **siamrpn.SETTINGS[model.name])

    return Follower(model, make, "RGB" if one_based else "BGR", one_based)


class FairMOT:
    """The tracker of all people, driven by one engine.

    Args:
        model: of the catalogue.
        network: takes inputs, returns outputs and the post-process's results.
    """

    def __init__(self, model: catalog.Model, network: Callable[[Arrays], tuple[Arrays, Arrays]]):
        self.network, self.size = network, model.inputs["images"].shape[2:]
        self.loop = fairmot.FairMOTTracker()

    def feed(self, frame: np.ndarray) -> Arrays:
        return {"images": fairmot.letterbox(frame, self.size)[0]}

    def step(self, frame: np.ndarray) -> list[dict]:
        """A frame, RGB."""
        image, scale, corner = fairmot.letterbox(frame, self.size)
        self.outputs, found = self.network({"images": image})
        tracks = self.loop.step(*(found[name][0].astype(np.float64) for name in ("boxes", "scores", "embeddings")))
        return [
            {"id": track.identity, "box": in_frame(track.extent(), scale, corner), "score": track.score}
            for track in sorted(tracks, key=lambda track: track.identity)
        ]


class CenterTrack:
    """The tracker of all objects, driven by one engine.

    Args:
        model, network: see :class:`FairMOT`.
    """

    def __init__(self, model: catalog.Model, network: Callable[[Arrays], tuple[Arrays, Arrays]]):
        self.network, self.size = network, model.inputs["images"].shape[2:]
        self.loop = centertrack.CenterTracker(**centertrack.SETTINGS[model.name])
        self.before: np.ndarray | None = None

    def feed(self, frame: np.ndarray) -> Arrays:
        image = centertrack.fitted(frame, self.size)[0]
        before = image if self.before is None else self.before
        return {"images": image, "previous": before, "heat": self.loop.heat(*self.size)}

    def step(self, frame: np.ndarray) -> list[dict]:
        """A frame, RGB."""
        _, scale, corner = centertrack.fitted(frame, self.size)
        feed = self.feed(frame)
        self.outputs, found = self.network(feed)
        tracks = self.loop.step({name: array[0] for name, array in found.items()})
        self.before = feed["images"]
        return [
            {
                "id": track["id"],
                "box": in_frame(track["box"], scale, corner),
                "score": track["score"],
                "class": track["label"],
            }
            for track in sorted(tracks, key=lambda track: track["id"])
            if track["active"]
        ]


def in_frame(box: np.ndarray, scale: float, corner: np.ndarray) -> list[float]:
    """x, y, width, height in pixels of the frame, of a box xyxy (4,) of the network's input."""
    first, last = (np.reshape(box, (2, 2)) - corner) / scale
    return [*first.tolist(), *(last - first).tolist()]


def refuse(box: Sequence[float], height: int, width: int) -> None:
    """Reject a box that is not inside the frame.

    Raises:
        Problem: says what is wrong.
    """
    said = ",".join(f"{value:g}" for value in box)
    x, y, w, h = box
    if not min(w, h) >= SMALLEST:
        raise Problem(f"--box {said}: width and height of {SMALLEST} pixels or more were expected")
    if not (x >= 0 and y >= 0 and x + w <= width and y + h <= height):
        raise Problem(f"--box {said}: not inside the first frame, which is {width} x {height} pixels")


def made(
    model: catalog.Model, weights: str | None, folder: Path, options: Mapping | None, key: str | None, frame: np.ndarray
) -> tuple[dict, Mapping[str, str]]:
    """A tracker for each engine, and the ONNX files by name; ``frame`` is one of the sequence."""
    import torch

    if model.name in SINGLE:
        state = twins(model, weights, ("torch",), options, key)[0]["torch"].state()
        if model.name in FOLLOWERS:
            return followers(model, state, options or {}, folder)
        parts = parts_of(model, options or {}, state, folder)
        files = ChainMap(*(part.files for part in parts if part))  # they grow, so each size needs a file
        return {engine: siamese(model, *parts, engine) for engine in ENGINES}, files
    panels, _ = twins(model, weights, options=options, key=key)
    kind = FairMOT if model.module == "tracking.fairmot" else CenterTrack
    feed = kind(model, None).feed(frame)
    examples = {name: np.concatenate([array] * 2) for name, array in feed.items()}
    files = {name: str(path) for name, path in export_files(panels, folder, examples, None, {}).items()}

    def network(function):
        def asked(feed):
            outputs = function(feed)
            return outputs, results_of(panels["torch"], feed, outputs)

        asked(feed)  # the first run traces and warms up
        return asked

    functions = engines(model, panels, files, torch.get_num_threads())
    return {engine: kind(model, network(function)) for engine, function in functions.items()}, files


def ask(
    model: catalog.Model,
    request: Request,
    weights: str | None,
    folder: Path,
    options: Mapping | None = None,
    key: str | None = None,
    draw_to: Path | None = None,
) -> dict:
    """Ask four engines where the objects are in every frame; the ONNX files stay in the folder.

    Returns and raises: see :func:`scripts.answer.ask`; boxes are x, y, width, height in pixels.
    """
    single = model.name in SINGLE
    if not single and model.name not in MULTIPLE:
        known = ", ".join((*SINGLE, *MULTIPLE))
        raise Problem(
            f"predict follows objects with {known}; {model.name} is none of them: export it, and run the file"
        )
    if single and request.box is None:
        raise Problem(f"{model.name} follows one object: say where it is in the first frame, with --box x,y,w,h")
    if not single and request.box is not None:
        raise Problem(f"--box: {model.name} finds the objects itself; leave it out")
    if not request.inputs:
        raise Problem(f"{model.name} needs a folder of pictures or a video as INPUT; see: diptych predict --help")
    if draw_to is not None:
        frames.check(draw_to)
    checkpoint = weights or model.checkpoint().name
    sequence = frames.Frames(request.inputs)
    stream = iter(sequence)
    start = list(itertools.islice(stream, 2))
    if len(start) < 2:
        raise Problem(f"{request.inputs[0]}: {len(start)} frame in it, and two or more were expected")
    if single:
        refuse(request.box, *start[0][1].shape[:2])
    frameworks()
    with asked(", ".join(map(str, request.inputs))):
        trackers, files = made(model, weights, folder, options, key, start[0][1])
        if single:  # creates and warms up the networks of all engines
            trackers[ENGINES[0]].start(start[0][1], request.box)
            trackers[ENGINES[0]].step(start[1][1])
    rows = {engine: [] for engine in ENGINES}
    seconds = {engine: [] for engine in ENGINES}
    worst = 0.0
    with contextlib.ExitStack() as stack:
        write = None if draw_to is None else stack.enter_context(frames.writer(draw_to, sequence))
        for number, (title, frame) in enumerate(itertools.chain(start, stream)):
            found = {}
            for engine, tracker in trackers.items():
                begun = time.perf_counter()
                if single and number == 0:
                    tracker.start(frame, request.box)
                    found[engine] = [{"box": [float(value) for value in request.box], "score": 1.0}]
                else:
                    found[engine] = tracker.step(frame)
                seconds[engine] += [time.perf_counter() - begun] if number else []
            if not single:
                worst = max(worst, agreement({engine: tracker.outputs for engine, tracker in trackers.items()}))
            if write is not None:
                write(drawn(frame, found))
            count = max(map(len, found.values()))
            for engine, tracks in found.items():
                rows[engine] += rows_of(title, tracks, max(count, 1), single)
    worst = max(worst, agreement(numbers(rows)))
    return answered(model.name, checkpoint, request.inputs, worst, files, seconds, rows)


def rows_of(title: str, tracks: Sequence[Mapping], count: int, single: bool) -> list[dict]:
    """Rows of the table for a frame; "nothing" where an engine has fewer tracks than another."""
    rows = []
    for rank, track in enumerate(tracks, start=1):
        item = {name: value for name, value in track.items() if name != "mask"}
        if "mask" in track:
            item["pixels"] = int(track["mask"].sum())
        row = f"{title}" if single else f"{title} {rank}."
        name = "" if single else f"#{track['id']} "
        box = [round(value, 1) for value in track["box"]]
        rows.append({"row": row, "text": f"{name}{box} {track['score']:.0%}", "frame": title, **item})
    return rows + [
        {"row": f"{title} {rank}.", "text": "nothing", "frame": title} for rank in range(len(rows) + 1, count + 1)
    ]


def numbers(rows: Mapping[str, Sequence[Mapping]]) -> dict[str, Arrays]:
    """Identities, boxes and scores of every engine; zeros where there is nothing."""
    nothing = {"id": 0, "box": [0.0] * 4, "score": 0.0}
    return {
        engine: {name: np.array([row.get(name, value) for row in found], np.float64) for name, value in nothing.items()}
        for engine, found in rows.items()
    }


def drawn(frame: np.ndarray, found: Mapping[str, Sequence[Mapping]]) -> Image.Image:
    """A frame with the boxes, and masks, of all engines; what they agree on is drawn once."""
    groups: list[tuple[list[str], Sequence[Mapping]]] = []
    for engine, tracks in found.items():
        for names, known in groups:
            alike = len(known) == len(tracks) and all(
                a.get("id") == b.get("id") and np.abs(np.subtract(a["box"], b["box"])).max() < SAME
                for a, b in zip(known, tracks)
            )
            if alike:
                names.append(engine)
                break
        else:
            groups.append(([engine], tracks))
    picture = Image.fromarray(frame)
    for number, (names, tracks) in enumerate(groups):
        said = "" if len(groups) == 1 else f"{', '.join(names)}: "
        items = [
            {
                "box": [*track["box"][:2], *np.add(track["box"][:2], track["box"][2:])],
                "class": track.get("id", number),
                "text": f"{said}{'#' + str(track['id']) + ' ' if 'id' in track else ''}{track['score']:.0%}",
            }
            for track in tracks
        ]
        picture = draw.regions(picture, [track["mask"] for track in tracks if "mask" in track])
        picture = draw.boxes(picture, items)
    return picture
