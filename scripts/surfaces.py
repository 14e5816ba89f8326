"""``diptych predict pifuhd``: the surface of a person, from four engines' predictions at as many points as needed."""

import time
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from scripts import draw, meshes
from scripts.answer import ENGINES, agreement, answered
from scripts.files import asked, twins
from scripts.output import Problem, frameworks, written
from scripts.parts import Part, options_of
from scripts.questions import Request, one_picture
from weights import catalog
from weights.processing.body import pifuhd
from weights.processing.face import tddfa
from weights.processing.images import open_picture

__all__ = ["ask"]

RESOLUTION = 256  # points of the grid in each direction
CHUNK = 16384  # points evaluated at once
CAMERA = np.diag([1.0, -1, 1, 1])  # from space, whose y points upwards, to the cube of the photo
# options of the coarse level by the builder of a part
OF_COARSE = {
    "pifuhd_features": ("num_stack", "hg_depth", "hg_dim", "ngf", "blocks"),
    "pifuhd_field": ("mlp_dim", "res_layers", "merge_layer", "load_size", "z_size"),
}

Arrays = dict[str, np.ndarray]


def part_of(name: str, options: Mapping, state: Arrays, source: str, folder: Path) -> Part:
    """A part with the whole model's tensors."""
    entry = catalog.get(name)
    own = options_of(entry, options)
    if "coarse" in own:
        known = OF_COARSE[entry.builder]
        own["coarse"] = {key: value for key, value in own["coarse"].items() if key in known}
    return Part(entry, own, state, source, folder)


class Person:
    """A person as reconstructed by one engine.

    Args:
        parts: maps, field and normals.
        engine: its name.
        feed: the image in both sizes.
    """

    def __init__(self, parts: tuple[Part, Part, Part], engine: str, feed: Arrays):
        features, self.field, self.directions = parts
        self.engine = engine
        self.maps = features(engine, feed)
        self.first: list[np.ndarray] = []  # answers at the points shared by all engines

    def ask(self, part: Part, points: np.ndarray) -> np.ndarray:
        """A network's predictions (P, C) for points (P, 3)."""
        (name,) = part.entry.outputs
        found = []
        for start in range(0, len(points), CHUNK):
            chunk = points[start : start + CHUNK]
            padded = np.pad(chunk, [(0, CHUNK - len(chunk)), (0, 0)])
            feed = {"points": padded.T[None].astype(np.float32), "calib": CAMERA[None].astype(np.float32)}
            found.append(part(self.engine, {**self.maps, **feed})[name][0].T[: len(chunk)])
        return np.concatenate(found)

    def occupancy(self, points: np.ndarray) -> np.ndarray:
        """Probabilities (P,) of points in space."""
        values = self.ask(self.field, points)[:, 0]
        known = sum(map(len, self.first))
        self.first.append(values[: min(RESOLUTION, pifuhd.CELLS) ** 3 - known])
        return values

    def surface(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices, triangles, colours.

        Raises:
            Problem: if there is no surface.
        """
        vertices, triangles = pifuhd.reconstruct(self.occupancy, CAMERA, RESOLUTION)
        if not len(vertices):
            raise Problem(
                f"pifuhd: inside and outside nowhere meet in {self.engine}'s answer; were these weights trained?"
            )
        return vertices, triangles, pifuhd.colours_of_normals(self.ask(self.directions, vertices))


def ask(
    model: catalog.Model,
    request: Request,
    weights: str | None,
    folder: Path,
    options: Mapping | None = None,
    key: str | None = None,
    draw_to: Path | None = None,
    mesh: Path | None = None,
) -> dict:
    """Ask four engines for the surface of a person; the ONNX files stay in the folder.

    Returns and raises: see :func:`scripts.answer.ask`; "vertices" is the largest distance of a vertex from the nearest
    of PyTorch's, in halves of the photo's size.
    """
    path = one_picture(model, request)
    if draw_to is not None:
        draw.check(draw_to)
    if mesh is not None:
        meshes.check(mesh)
    checkpoint, options = weights or model.checkpoint().name, options or {}
    picture = open_picture(path)
    left, top, right, bottom = meshes.region(request, picture)
    side = round(max(right - left, bottom - top))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    sizes = model.inputs["images_global"].shape[2], options.get("load_size_big", 1024)
    crops = (tddfa.crop(np.asarray(picture), (x, y, x + side, y + side), size) / 127.5 - 1 for size in sizes)
    names = ("images_global", "images_local")
    feed = {name: crop.transpose(2, 0, 1)[None].astype(np.float32) for name, crop in zip(names, crops, strict=True)}
    frameworks()
    seconds, people, surfaces = {}, {}, {}
    with asked(str(path)):
        state = twins(model, weights, ("torch",), options, key)[0]["torch"].state()
        parts = tuple(
            part_of(name, options, state, checkpoint, folder)
            for name in ("pifuhd_features", "pifuhd_field", "pifuhd_normals")
        )
        parts[0](ENGINES[0], feed)  # creates and warms up the networks of all engines
    for engine in ENGINES:
        begun = time.perf_counter()
        people[engine] = Person(parts, engine, feed)
        surfaces[engine] = people[engine].surface()
        seconds[engine] = [time.perf_counter() - begun]
    outputs = {engine: {**person.maps, "occupancy": np.concatenate(person.first)} for engine, person in people.items()}
    nearest = cKDTree(surfaces["PyTorch"][0])
    away = max(nearest.query(vertices)[0].max() for vertices, *_ in surfaces.values())
    if draw_to is not None:
        shown = {engine: drawn(picture, (x, y), side, *found[:2]) for engine, found in surfaces.items()}
        draw.save(draw.side_by_side({"input": picture, **shown}), draw_to)
    if mesh is not None:
        with written(mesh) as temporary:
            pifuhd.write_mesh(temporary, *surfaces["PyTorch"])
    rows = {engine: rows_of(*found[:2]) for engine, found in surfaces.items()}
    files = ChainMap(*(part.files for part in parts))
    told = answered(model.name, checkpoint, request.inputs, agreement(outputs), files, seconds, rows)
    return told | {"vertices": float(f"{away:.3g}")}


def drawn(picture, corner: tuple[int, int], side: int, vertices: np.ndarray, triangles: np.ndarray):
    """The photo under the surface, seen from the front."""
    places = (vertices * (1, -1, 1) + (1, 1, 0)) * side / 2 + (*corner, 0)
    return draw.mesh(picture, places, triangles)


def rows_of(vertices: np.ndarray, triangles: np.ndarray) -> list[dict]:
    """Numbers of vertices and triangles, and their range."""
    rows = [
        {"row": name, "text": str(len(found)), "value": len(found)}
        for name, found in (("vertices", vertices), ("triangles", triangles))
    ]
    for axis, values in zip("xyz", vertices.T, strict=True):
        low, high = float(values.min()), float(values.max())
        rows.append({"row": axis, "text": f"{low:.3f} to {high:.3f}", "low": low, "high": high})
    return rows
