"""``diptych predict fomm``: how movements are taken over, a published file's two sets of weights, and four engines."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from skimage import data

from scripts import animation
from scripts.cli import main
from scripts.draw import MARGIN
from scripts.files import twins
from torch_impl.face.fomm import relative_motion
from weights import catalog
from weights.processing.face import fomm

SMALL = {
    "num_kp": 3,
    **{"kp_expansion": 4, "kp_features": 16, "kp_blocks": 2},
    **{"block_expansion": 4, "max_features": 12, "num_bottleneck_blocks": 1},
    **{"motion_expansion": 4, "motion_features": 16, "motion_blocks": 2},
}
OPTIONS = [word for name, value in SMALL.items() for word in ("--option", f"{name}={value}")]


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def points(rng, count: int = 5) -> dict[str, np.ndarray]:
    return {
        "value": rng.uniform(-1, 1, (1, count, 2)).astype(np.float32),
        "jacobian": (np.eye(2) + rng.uniform(-0.3, 0.3, (1, count, 2, 2))).astype(np.float32),
    }


@pytest.fixture
def scene(tmp_path):
    """An image, and a folder of frames in which another one moves."""
    Image.fromarray(data.astronaut()[:200, 100:320]).save(tmp_path / "source.png")
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(data.coffee()[20:220, 100 + 9 * number : 300 + 9 * number]).save(
            tmp_path / "frames" / f"{number}.png"
        )
    return tmp_path


def test_movements_are_those_of_the_panels():
    rng = np.random.default_rng(0)
    source, driving, first = (points(rng) for _ in range(3))
    tensors = [{key: torch.from_numpy(x) for key, x in given.items()} for given in (source, driving, first)]
    wanted = relative_motion(*tensors, scale=1.7)
    found = fomm.relative_motion(source, driving, first, 1.7)
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-4, atol=1e-6)
    still = fomm.relative_motion(source, first, first, 1.7)
    for key in source:
        np.testing.assert_allclose(still[key], source[key], atol=1e-6)


def test_movements_are_as_large_as_the_object():
    square = np.array([[[-1.0, -1], [1, -1], [1, 1], [-1, 1], [0.2, 0.1]]])
    assert fomm.movement_scale({"value": square}, {"value": square / 4}) == pytest.approx(4)
    assert fomm.movement_scale({"value": square}, {"value": np.zeros((1, 5, 2))}) == 1
    assert fomm.movement_scale({"value": square[:, :2]}, {"value": square[:, :2]}) == 1


def test_a_published_file_holds_two_sets(tmp_path):
    model = catalog.get("fomm")
    wanted = twins(model, "seeded", ("torch",), SMALL)[0]["torch"].state()
    sets = {part: {} for part in animation.PARTS}
    for name, tensor in wanted.items():
        part, _, own = name.partition(".")
        sets[part][own] = torch.from_numpy(tensor)
    torch.save({**sets, "discriminator": {}, "epoch": 99}, tmp_path / "vox-cpk.pth.tar")
    found = animation.state_of(model, str(tmp_path / "vox-cpk.pth.tar"), SMALL, None)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    detector, generator = animation.parts_of(model, "seeded", tmp_path, SMALL, None)
    assert detector.options == {"num_kp": 3, "block_expansion": 4, "max_features": 16, "num_blocks": 2}
    assert generator.options["block_expansion"] == 4 and "motion_blocks" in generator.options
    assert set(detector.state) == set(sets["kp_detector"]) and set(generator.state) == set(sets["generator"])


def test_four_engines_move_a_picture_alike(scene):
    said = ("fomm", scene / "source.png", "--frames", scene / "frames", "--checkpoint", "seeded", *OPTIONS, "--json")
    result = predict(*said, "--draw", scene / "out")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = found["engines"]["PyTorch"]["answers"]
    assert found["difference"] < 1e-5 and [row["row"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert len({row["mean"] for row in rows}) == 3, "the picture moves"
    shown = [np.asarray(Image.open(path)) for path in sorted((scene / "out").iterdir())]
    assert len(shown) == 3 and shown[0].shape[1] == 6 * 256 + 7 * MARGIN


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fomm", "source.png"], "give them with --frames"),
        (["fomm", "--frames", "frames"], "takes one picture, and 0"),
        (["fomm", "none.png", "--frames", "frames"], "none.png: there is no such file"),
        (["fomm", "source.png", "--frames", "none"], "none: there is no such file or folder"),
        (["fomm", "source.png", "--frames", "empty"], "no picture in it"),
        (["fomm", "source.png", "--frames", "frames", "--draw", "out.png"], "a folder, or a file that ends in"),
        (["fomm", "source.png", "--frames", "frames", "--seed", "1"], "leave the other options out"),
        (["fomm", "source.png", "--frames", "frames", "--box", "1,2,3,4"], "leave the other options out"),
        (["siamfc_alexnet_v1", "frames", "--frames", "frames"], "leave the other options out"),
        (["squeezenet1_1", "source.png", "--frames", "frames"], "--frames: squeezenet1_1 has no use for it"),
        (["mtcnn", "source.png", "--frames", "frames"], "leave the other options out"),
    ],
)
def test_bad_use_is_refused_in_a_line(scene, monkeypatch, arguments, words):
    monkeypatch.chdir(scene)
    (scene / "empty").mkdir()
    before = sorted(path.name for path in scene.iterdir())
    result = predict(*arguments, "--checkpoint", "seeded")
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert sorted(path.name for path in scene.iterdir()) == before
