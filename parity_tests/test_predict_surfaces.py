"""``diptych predict pifuhd``: points in chunks, a surface at its place in the photo, four engines, the files."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from parity_tests.test_predict_meshes import read_obj
from scripts import surfaces
from scripts.answer import ENGINES
from scripts.cli import main
from scripts.files import twins
from scripts.output import Problem, frameworks
from scripts.questions import Request
from weights import catalog, store

SMALL = {
    "base": 8,
    "groups": 2,
    "hg_depth": 1,
    "hg_dim": 4,
    "mlp_dim": (8, 8, 4, 1),
    "res_layers": (1,),
    "load_size_big": 64,
    "coarse": {"num_stack": 2, "hg_depth": 1, "hg_dim": 6, "mlp_dim": (7, 8, 8, 4, 4, 1), "ngf": 2, "blocks": 1},
    "delta": 0.1,
}


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(data.astronaut()[:300, :400]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


class Ball:
    """A part that sees a ball of radius 0.5, and counts what it was asked for."""

    def __init__(self):
        self.entry, self.sizes = catalog.get("pifuhd_field"), []

    def __call__(self, engine, feed):
        self.sizes.append(feed["points"].shape)
        distance = np.linalg.norm(feed["points"] - np.array([[0.2], [0], [0]]), axis=1, keepdims=True)
        return {"occupancy": 1 / (1 + np.exp((distance - 0.5) / 0.02))}


class Out(Ball):
    """Normals that point to the eye."""

    def __init__(self):
        super().__init__()
        self.entry = catalog.get("pifuhd_normals")

    def __call__(self, engine, feed):
        return {"normals": np.tile([[[0.0], [0], [1]]], (1, 1, feed["points"].shape[2]))}


def test_points_are_asked_for_in_chunks_of_one_size(monkeypatch):
    monkeypatch.setattr(surfaces, "RESOLUTION", 32)
    monkeypatch.setattr(surfaces, "CHUNK", 5000)
    ball = Ball()
    person = surfaces.Person((lambda engine, feed: {}, ball, Out()), "PyTorch", {})
    vertices, triangles, colours = person.surface()
    assert set(ball.sizes) == {(1, 3, 5000)} and len(ball.sizes) == 7
    np.testing.assert_allclose(np.linalg.norm(vertices - (0.2, 0, 0), axis=1), 0.5, atol=0.01)
    assert len(np.concatenate(person.first)) == 32**3 and triangles.max() == len(vertices) - 1
    np.testing.assert_array_equal(colours[0], (0.5, 0.5, 1))


def test_the_surface_is_drawn_where_the_person_is():
    square = np.array([[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.0]])  # right of the middle, and above it
    picture = np.asarray(
        surfaces.drawn(Image.new("RGB", (100, 80)), (20, 10), 60, square, np.array([[0, 1, 2], [2, 3, 0]]))
    )
    rows, columns = (np.flatnonzero(picture.any((axis, 2))) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (25, 40, 50, 65)


def test_four_engines_find_the_same_surface(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(surfaces, "RESOLUTION", 16)
    monkeypatch.setattr(surfaces, "CHUNK", 512)
    frameworks()
    model = catalog.get("pifuhd")
    state = twins(model, "seeded", ("torch",), SMALL)[0]["torch"].state()
    state["mlp.filters.2.bias"] *= 0  # probabilities on both sides of one half
    store.save(tmp_path / "w.safetensors", state, {})
    inputs = {"images_global": dataclasses.replace(model.inputs["images_global"], shape=("N", 3, 32, 32))}
    model = dataclasses.replace(model, inputs={**model.inputs, **inputs})
    request = Request([str(photo)], box=(40.0, 50.0, 150.0, 200.0))
    own = (str(tmp_path / "w.safetensors"), tmp_path / "onnx", SMALL)
    found = surfaces.ask(model, request, *own, draw_to=tmp_path / "p.png", mesh=tmp_path / "p.obj")
    assert found["difference"] < 1e-5 and found["vertices"] < 1e-4 and len(found["files"]) == 6
    vertices, triangles = read_obj(tmp_path / "p.obj")
    for engine in ENGINES:
        rows = {row["row"]: row for row in found["engines"][engine]["answers"]}
        assert rows["vertices"]["value"] == len(vertices) > 20 and rows["triangles"]["value"] == len(triangles)
        assert (rows["x"]["low"], rows["x"]["high"]) == pytest.approx(
            (vertices[:, 0].min(), vertices[:, 0].max()), abs=1e-4
        )
    assert np.asarray(Image.open(tmp_path / "p.png")).size


def test_no_surface_is_said(monkeypatch):
    monkeypatch.setattr(surfaces, "RESOLUTION", 8)
    nothing = Ball()
    person = surfaces.Person((lambda engine, feed: {}, nothing, Out()), "PyTorch", {})
    monkeypatch.setattr(Ball, "__call__", lambda self, engine, feed: {"occupancy": 0 * feed["points"][:, :1]})
    with pytest.raises(Problem, match="were these weights trained"):
        person.surface()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mesh", "m.stl"], "--mesh m.stl: a file that ends in .obj or .ply was expected"),
        (["--box", "900,1,5,5"], "not in the picture"),
        (["--basis", "b.npz"], "leave the others out"),
        (["--seed", "1"], "leave the others out"),
        (["photo.png"], "takes one picture, and 2 were given"),
    ],
)
def test_bad_use_is_refused_in_a_line(photo, monkeypatch, arguments, words):
    monkeypatch.chdir(photo.parent)
    before = sorted(path.name for path in photo.parent.iterdir())
    result = CliRunner().invoke(main, ["predict", "pifuhd", "photo.png", "--checkpoint", "seeded", *arguments])
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert sorted(path.name for path in photo.parent.iterdir()) == before
