"""Models whose answers are surfaces: the mesh of each engine, its file, and its drawing.

A face is built from the network's parameters and a face model, a body likewise; published models have separate
licences, so a user provides them (``--basis``), and a synthetic one stands in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scripts import draw
from scripts.output import Problem, written
from scripts.questions import IMAGENET, Question, Request, one_picture
from weights import catalog
from weights.processing.body import pifuhd, smpl
from weights.processing.face import tddfa
from weights.processing.images import image_input, open_picture

__all__ = ["Mesh", "body_mesh", "check", "face_mesh", "position_mesh", "save"]

SUFFIXES = (".obj", ".ply")
POSITIONS = 1.1  # a position map's unit, in sizes of the photo

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Mesh:
    """A surface.

    ``vertices`` (V, 3): for faces pixels of the picture, for bodies metres; y upwards and z to the eye. ``triangles``
    (F, 3). ``places`` (V, 3): x and y in pixels of the picture, y downwards, and how near the vertex is.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    places: np.ndarray


def check(path: Path) -> None:
    """Reject a file whose extension names no format.

    Raises:
        Problem: names the known extensions.
    """
    if path.suffix not in SUFFIXES:
        raise Problem(f"--mesh {path}: a file that ends in {' or '.join(SUFFIXES)} was expected")


def save(mesh: Mesh, path: Path) -> None:
    """Write a mesh file, completely or not at all.

    Raises:
        Problem: if its extension names no format, or it cannot be written.
    """
    check(path)
    with written(path) as temporary:
        pifuhd.write_mesh(temporary, mesh.vertices, mesh.triangles)


def region(request: Request, picture: Image.Image) -> tuple[float, float, float, float]:
    """Where the face or the person is, xyxy in pixels; the whole photo by default.

    Raises:
        Problem: if it is not in the photo.
    """
    if request.box is None:
        return 0, 0, *picture.size
    x, y, w, h = request.box
    if not (min(w, h) >= 2 and max(x, 0) < min(x + w, picture.width) and max(y, 0) < min(y + h, picture.height)):
        said = ",".join(f"{value:g}" for value in request.box)
        raise Problem(f"--box {said}: not in the picture, which is {picture.width} x {picture.height} pixels")
    return x, y, x + w, y + h


def question(
    path, feed: Arrays, mesh: Callable[[Arrays], Mesh], rows: Callable[[Arrays], Sequence[tuple[str, str, float]]]
) -> Question:
    """Rows are names, texts and numbers of an engine's outputs; the range of the vertices follows them."""

    def read(outputs, results=None):
        found = [{"row": name, "text": text, "value": value} for name, text, value in rows(outputs)]
        vertices = mesh(outputs).vertices
        for axis, values in zip("xyz", vertices.T):
            low, high = float(values.min()), float(values.max())
            found.append({"row": f"{axis} of {len(vertices)} vertices", "text": f"{low:.4g} to {high:.4g}"})
            found[-1] |= {"low": low, "high": high}
        return found

    def drawn(outputs):
        picture = open_picture(path)
        shown = {
            engine: draw.mesh(picture, mesh(found).places, mesh(found).triangles) for engine, found in outputs.items()
        }
        return draw.side_by_side({"input": picture, **shown})

    return Question(feed, read, drawn, mesh=mesh)


def in_picture(x: np.ndarray, y: np.ndarray, near: np.ndarray, height: int, triangles: np.ndarray) -> Mesh:
    """A mesh that is measured in pixels."""
    return Mesh(np.stack([x, height - y, near], 1), triangles, np.stack([x, y, near], 1))


def face_mesh(model: catalog.Model, entry, request: Request) -> Question:
    """3DDFA: pose, shape and expression of a face, and its surface."""
    path = one_picture(model, request)
    picture = open_picture(path)
    box = tuple(map(round, tddfa.box_around(region(request, picture))))
    face = tddfa.synthetic_face() if request.basis is None else tddfa.read_face(request.basis)
    size = model.inputs["images"].shape[2]
    crop = (tddfa.crop(np.asarray(picture)[..., ::-1], box, size) - 127.5) / 128

    def numbers(outputs):
        return outputs["parameters"][0].astype(np.float64) * face.param_std + face.param_mean

    def mesh(outputs):
        vertices = tddfa.reconstruct(numbers(outputs), face.mean, face.bases)
        return in_picture(*tddfa.in_image(vertices, box, size), picture.height, face.triangles)

    def rows(outputs):
        scale, turn, _ = tddfa.parse_pose(numbers(outputs)[:12].reshape(3, 4))
        found = zip(("yaw", "pitch", "roll"), np.degrees(tddfa.angles(turn)).tolist())
        return [(name, f"{value:.1f} degrees", value) for name, value in found] + [("scale", f"{scale:.4g}", scale)]

    return question(path, {"images": crop.transpose(2, 0, 1)[None].astype(np.float32)}, mesh, rows)


def position_mesh(model: catalog.Model, entry, request: Request) -> Question:
    """PRNet: the place of every point of a face; of all of the map unless ``--basis`` says which are skin."""
    path = one_picture(model, request)
    picture = open_picture(path)
    box = tuple(map(round, tddfa.box_around(region(request, picture))))
    size = model.inputs["images"].shape[2]
    kept, triangles = whole_map(size) if request.basis is None else read_map(request.basis, size)
    crop = tddfa.crop(np.asarray(picture), box, size) / np.float32(255)
    pixel = (box[2] - box[0]) / size

    def mesh(outputs):
        places = outputs["position_map"][0].astype(np.float64).reshape(3, -1).T[kept] * POSITIONS * size
        x, y = ((places[:, i] + 0.5) * pixel - 0.5 + box[i] for i in range(2))
        return in_picture(x, y, places[:, 2] * pixel, picture.height, triangles)

    return question(path, {"images": crop.transpose(2, 0, 1)[None].astype(np.float32)}, mesh, lambda outputs: [])


def whole_map(size: int) -> tuple[np.ndarray, np.ndarray]:
    """All points of a position map, and the triangles between neighbours."""
    first = (np.arange(size - 1)[:, None] * size + np.arange(size - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack(corners, 1)
            for corners in ((first, first + size, first + 1), (first + 1, first + size, first + size + 1))
        ]
    )
    return np.arange(size * size), triangles


def read_map(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which points of the map are skin, ``face_ind`` (V,), and ``triangles`` (F, 3) of these: a .npz file.

    Raises:
        Problem: if the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kept, triangles = (file[key].astype(np.int64) for key in ("face_ind", "triangles"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Problem(f"--basis {path}: {reason}; a .npz file with face_ind and triangles was expected") from None
    fits = kept.ndim == 1 and triangles.ndim == 2 and triangles.shape[1] == 3 and kept.size and triangles.size
    if not (fits and kept.min() >= 0 and kept.max() < size**2 and triangles.min() >= 0 and triangles.max() < len(kept)):
        raise Problem(f"--basis {path}: face_ind or triangles do not fit a map of {size} x {size} points")
    return kept, triangles


def body_mesh(model: catalog.Model, entry, request: Request) -> Question:
    """HMR: pose and shape of a person, and the body's surface."""
    path = one_picture(model, request)
    picture = open_picture(path)
    size = model.inputs["images"].shape[2]
    left, top, right, bottom = region(request, picture)
    side = max(right - left, bottom - top)
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    box = x, y, x + round(side), y + round(side)
    crop = tddfa.crop(np.asarray(picture), box, size).clip(0, 255)
    count = model.outputs["betas"].shape[1]
    arrays, parents, faces = (
        smpl.synthetic_body(count) if request.basis is None else smpl.read_body(request.basis, count)
    )

    def mesh(outputs):
        import torch

        from torch_impl.body.hmr import FOCAL
        from torch_impl.body.smpl import SMPL

        body = SMPL(len(arrays["v_template"]), count, parents, vertex_joints=())
        body.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        with torch.no_grad():
            found = body(*(torch.from_numpy(outputs[name]) for name in ("betas", "rotations")), torch.zeros(1, 3))
        vertices = found["vertices"][0].numpy().astype(np.float64)
        scale, *shift = outputs["camera"][0].astype(np.float64)
        placed = vertices + np.array([*shift, 2 * FOCAL / (size * scale + 1e-9)])
        seen = (FOCAL * placed[:, :2] / placed[:, 2:] + size / 2) * (box[2] - box[0]) / size + np.array([x, y])
        return Mesh(vertices * (1, -1, -1), faces, np.concatenate([seen, -placed[:, 2:]], 1))

    def rows(outputs):
        return [(f"shape {i}", f"{value:.3f}", value) for i, value in enumerate(outputs["betas"][0].tolist())]

    return question(path, {"images": image_input(np.round(crop).astype(np.uint8), IMAGENET)}, mesh, rows)
