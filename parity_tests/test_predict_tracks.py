"""``diptych predict`` of trackers: objects that move in a known way, the loops with made-up networks, the files."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from scripts import followers, frames, tracks
from scripts.answer import ENGINES
from scripts.cli import main
from scripts.files import twins
from scripts.output import Problem, frameworks
from scripts.questions import Request
from weights import catalog, store
from weights.processing.tracking import centertrack, dimp, fairmot, siamfcpp, siammask

BOX = (80, 60, 50, 40)
STEP = (5, 3)  # pixels a frame, right and down
SMALL = {
    "siamfc_alexnet_v1": {"channels": (4, 6, 8, 8, 6)},
    "siamrpn_alex_dwxcorr": {"channels": (4, 6, 8, 8, 6)},
    "siamrpn_r50_l234_dwxcorr_otb": {"layers": (1,) * 4, "planes": (4,) * 4, "channels": (4,) * 3},
    **{name: {"layers": (1,) * 3, "planes": (2,) * 3, "channels": 4} for name in siammask.SETTINGS},
    "siamfcpp_alexnet": {"channels": (4, 6, 8, 8, 6)},
    "siamfcpp_googlenet": {"layers": (1, 2), "width": 0.125, "channels": 6},
}
RESNET = {"layers": (1,) * 4, "planes": (4, 6, 8, 10)}
LEARNING = {
    "dimp18": {**RESNET, "channels": 6, "width": 8, "num_classes": 2},
    "siamrcnn_r50": {
        **{**RESNET, "channels": 8, "units": 12, "groups_of_norm": 2},
        **{"candidates": (30, 20), "proposals": (20, 10), "samples": 12},
    },
}


def moved(number: int, box=BOX) -> list[float]:
    return [box[0] + number * STEP[0], box[1] + number * STEP[1], *box[2:]]


@pytest.fixture
def sequence(tmp_path):
    """Four frames in which a piece of one photograph moves over another one."""
    (tmp_path / "frames").mkdir()
    for number in range(4):
        frame = data.astronaut()[:200, :260].copy()
        x, y, width, height = moved(number)
        frame[y : y + height, x : x + width] = data.coffee()[150 : 150 + height, 200 : 200 + width]
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    return tmp_path


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def sane(name: str, options: dict, path) -> str:
    """A file of seeded weights whose answers are no exponentials of large numbers."""
    frameworks()
    state = twins(catalog.get(name), "seeded", ("torch",), options)[0]["torch"].state()
    first = next(key for key, value in state.items() if value.ndim == 4)
    for key, value in state.items():
        share = 1 / 255 if key == first else 0.05 if "loc.head.3.weight" in key or "offsets" in key else 1
        state[key] = (value * share).astype(value.dtype)
    store.save(path, state, {})
    return str(path)


def test_the_command_follows_a_box(sequence):
    options = ("--option", "channels=[4,6,8,8,6]", "--checkpoint", "seeded")
    said = ("siamfc_alexnet_v1", sequence / "frames", "--box", "80,60,50,40", *options)
    result = predict(*said, "--json", "--draw", sequence / "out")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for engine in found["engines"].values():
        assert [row["frame"] for row in engine["answers"]] == [f"{i}.png" for i in range(4)]
        np.testing.assert_allclose(engine["answers"][0]["box"], BOX)
        wanted = [row["box"] for row in found["engines"]["PyTorch"]["answers"]]
        np.testing.assert_allclose([row["box"] for row in engine["answers"]], wanted, atol=1e-3)
    first = found["engines"]["PyTorch"]["answers"]
    assert first[1]["box"] != first[2]["box"]
    assert sorted(path.name for path in (sequence / "out").iterdir()) == [f"{i:06}.png" for i in range(4)]
    assert sorted(path.name for path in sequence.iterdir()) == ["frames", "out"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "siammask_sharp" else pytest.mark.slow) for name in list(SMALL)[1:]],
)
def test_four_engines_follow_alike(name, sequence):
    weights = sane(name, SMALL[name], sequence / "w.safetensors")
    request = Request([str(sequence / "frames")], box=BOX)
    found = tracks.ask(catalog.get(name), request, weights, sequence / "onnx", SMALL[name])
    assert found["difference"] < 1e-5 and len(found["files"]) == (6 if name == "siammask_sharp" else 4)
    for engine in found["engines"].values():
        boxes = np.array([row["box"] for row in engine["answers"]])
        assert np.isfinite(boxes).all() and (np.ptp(boxes, axis=0) > 0).all()
        assert ("pixels" in engine["answers"][-1]) == ("mask" in name)


@pytest.mark.parametrize("name", ["dimp18", pytest.param("siamrcnn_r50", marks=pytest.mark.slow)])
def test_four_engines_learn_and_find_again_alike(name, sequence, monkeypatch):
    model = catalog.get(name)
    if name == "dimp18":
        monkeypatch.setattr(dimp, "NOT_FOUND", 0.0)  # of a network that has learnt nothing
    else:
        small = {"images": dataclasses.replace(model.inputs["images"], shape=("N", 3, 64, 64))}
        model = dataclasses.replace(model, inputs={**model.inputs, **small})
    request = Request([str(sequence / "frames")], box=BOX)
    found = tracks.ask(model, request, "seeded", sequence / "onnx", LEARNING[name])
    assert found["difference"] < 1e-4
    assert len(found["files"]) == 2 * len(followers.FOLLOWERS[name])
    for engine in found["engines"].values():
        rows = engine["answers"]
        boxes = np.array([row["box"] for row in rows])
        assert len(boxes) == 4 and np.isfinite(boxes).all() and np.ptp(boxes, axis=0).any()
        assert all(row["score"] >= 0 for row in rows) and ("state" in rows[-1]) == (name == "dimp18")


def test_siamfcpp_goes_where_the_network_points():
    image, size = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8), np.array([50.0, 25])

    def network(memory, x):
        assert memory.shape == (1, 3, 127, 127) and x.shape == (1, 3, 303, 303)
        logits, boxes = np.full((1, 289, 1), -9.0), np.zeros((1, 289, 4))
        logits[0, 150] = 9
        boxes[0, :] = 0, 0, 9, 9
        corner = np.array([161.0, 151]) - (size - 1) / 2
        boxes[0, 150] = *corner, *corner + size - 1
        return {"cls_pred": logits, "ctr_pred": logits, "box_pred": boxes}

    tracker = siamfcpp.SiamFCPPTracker(lambda z: z, network)
    tracker.initialise(image, (50, 40, 40, 20))
    scale = 127 / np.sqrt((40 + 30) * (20 + 30))
    size = size * scale / 1.25  # twice as wide as high and as large as before
    found = tracker.track(image)
    np.testing.assert_allclose(found["box"][:2] + (found["box"][2:] - 1) / 2, (69.5 + 10 / scale, 49.5), rtol=1e-9)
    np.testing.assert_allclose(found["box"][2:], (40, 20), rtol=1e-6)
    assert found["score"] == pytest.approx((1 / (1 + np.exp(-9))) ** 2)


def test_a_crop_of_its_own_size_is_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    found = siamfcpp.crop(image, (12, 9), 9, 9, (7.9, 8, 9))
    np.testing.assert_allclose(found[0], image[5:14, 8:17].transpose(2, 0, 1), atol=1e-4)
    found = siamfcpp.crop(image, (0, 0), 9, 9, (7.9, 8, 9))
    np.testing.assert_array_equal(found[0, :, 0, 0], (7, 8, 9))
    np.testing.assert_allclose(found[0, :, -1, -1], image[4, 4])


def test_a_mask_is_laid_over_the_frame():
    found = siammask.paste(np.ones((20, 20)), (10.0, 5.0), 20.0, (40, 60))
    assert found.shape == (40, 60) and set(np.unique(found)) >= {-1.0, 1.0}
    rows, columns = (np.flatnonzero((found > 0.3).any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (5, 23) and (columns[0], columns[-1]) == (10, 28)


class Squares:
    """A network that sees two squares, which cross, in pixels of the network's input."""

    def __init__(self):
        self.frame = 0

    def __call__(self, feed):
        corners = np.array([[20 + 9.0 * self.frame, 30], [150 - 9.0 * self.frame, 50]])
        self.frame += 1
        boxes = np.concatenate([corners, corners + 24], 1)[None]
        found = {"boxes": boxes, "scores": np.array([[0.9, 0.8]]), "embeddings": np.eye(2)[None]}
        moves = np.tile([[-9.0, 0], [9, 0]], (1, 1, 1))
        return {}, {**found, "labels": np.zeros((1, 2), int), "centres": boxes[..., :2] + 12, "moves": moves}


@pytest.mark.parametrize("name", ["fairmot_dla34", "centertrack_mot17"])
def test_identities_stay_and_boxes_are_those_of_the_frame(name):
    model = catalog.get(name)
    tracker = (tracks.FairMOT if "fairmot" in name else tracks.CenterTrack)(model, Squares())
    height, width = (n // 2 for n in model.inputs["images"].shape[2:])  # half as large as the input
    for number in range(12):
        found = tracker.step(np.zeros((height, width, 3), np.uint8))
        assert [track["id"] for track in found] == [1, 2]
        for track, left in zip(found, (20 + 9 * number, 150 - 9 * number)):
            tolerance = 3 if "fairmot" in name else 1e-6  # the filter of FairMOT lags behind
            assert abs(track["box"][0] - left / 2) < tolerance and abs(track["box"][3] - 12) < tolerance


@pytest.mark.parametrize("fit", [fairmot.letterbox, centertrack.fitted])
@pytest.mark.parametrize("size", [(50, 200), (90, 70), (96, 64)])
def test_a_frame_keeps_its_proportions(fit, size):
    frame = np.full((*size, 3), 200, np.uint8)
    image, scale, corner = fit(frame, (64, 96))
    assert image.shape == (1, 3, 64, 96) and image.dtype == np.float32
    inside = np.isclose(image[0, 0], image[0, 0, 32, 48])
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    np.testing.assert_allclose((columns[0], rows[0]), corner)
    np.testing.assert_allclose((len(rows), len(columns)), np.multiply(size, scale), atol=0.51)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fairmot_dla34", "centertrack_mot17"])
def test_four_engines_identify_alike(name, sequence, monkeypatch):
    model = catalog.get(name)
    inputs = {
        key: dataclasses.replace(tensor, shape=(*tensor.shape[:2], 64, 96)) for key, tensor in model.inputs.items()
    }
    model = dataclasses.replace(model, inputs=inputs)
    options = {"depths": (1, 1, 1, 1, 1, 1), "widths": (4, 4, 6, 8, 10, 12), "hidden": 8}
    found = tracks.ask(model, Request([str(sequence / "frames")]), "seeded", sequence / "onnx", options)
    rows = found["engines"]["PyTorch"]["answers"]
    assert found["difference"] < 1e-4 and {row["frame"] for row in rows} == {f"{i}.png" for i in range(4)}
    assert any("id" in row for row in rows)


def test_rows_and_numbers_of_engines_that_differ():
    track = {"id": 3, "box": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    rows = {
        engine: tracks.rows_of("7", [track] * (engine == "PyTorch"), 1, single=False) for engine in ("PyTorch", "ONNX")
    }
    assert [rows[engine][0]["text"] for engine in rows] == ["#3 [1.0, 2.0, 3.0, 4.0] 50%", "nothing"]
    assert rows["ONNX"][0]["row"] == rows["PyTorch"][0]["row"] == "7 1."
    assert tracks.agreement(tracks.numbers(rows)) == 1


def test_what_engines_agree_on_is_drawn_once():
    frame = np.zeros((60, 80, 3), np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:30, 20:30] = True
    found = {engine: [{"box": [10, 10, 40, 30], "score": 0.9, "mask": mask}] for engine in ENGINES}
    picture = np.asarray(tracks.drawn(frame, found))
    assert len(np.unique(picture[40, 15:45].reshape(-1, 3), axis=0)) == 1 and picture[25, 25].any()
    found["PyTorch"] = [{"box": [60, 10, 10, 30], "score": 0.9}]
    other = np.asarray(tracks.drawn(frame, found))
    assert not picture[25, 60].any() and other[25, 60].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["siamfc_alexnet_v1", "frames"], "say where it is in the first frame, with --box"),
        (["siamfc_alexnet_v1", "--box", "1,2,30,40"], "needs a folder of pictures or a video"),
        (["siamfc_alexnet_v1", "frames", "--box", "1,2,30"], "is no box; left, top, width and height"),
        (["siamfc_alexnet_v1", "frames", "--box", "1,2,30,nan"], "is no box"),
        (["siamfc_alexnet_v1", "frames", "--box", "250,60,50,40"], "not inside the first frame, which is 260 x 200"),
        (["siamfc_alexnet_v1", "frames", "--box", "-1,60,50,40"], "not inside the first frame"),
        (["siamfc_alexnet_v1", "frames", "--box", "80,60,0,40"], "2 pixels or more"),
        (["siamfc_alexnet_v1", "frames", "--box", "80,60,50,-4"], "2 pixels or more"),
        (["siamfc_alexnet_v1", "empty", "--box", "8,6,5,4"], "no picture in it"),
        (["siamfc_alexnet_v1", "none", "--box", "8,6,5,4"], "there is no such file or folder"),
        (["siamfc_alexnet_v1", "one", "--box", "8,6,5,4"], "1 frame in it, and two or more"),
        (["siamfc_alexnet_v1", "sizes", "--box", "8,6,5,4"], "several sizes, 20 x 20 and 30 x 20"),
        (["siamfc_alexnet_v1", "text.mp4", "--box", "8,6,5,4"], "text.mp4"),
        (["siamfc_alexnet_v1", "text.png", "--box", "8,6,5,4"], "text.png: not a picture"),
        (["siamfc_alexnet_v1", "frames", "--box", "8,6,5,4", "--draw", "out.avi"], "a folder, or a file that ends in"),
        (["siamfc_alexnet_v1", "frames", "--box", "8,6,5,4", "--draw", "one"], "new or empty"),
        (["siamfc_alexnet_v1", "frames", "--box", "8,6,5,4", "--draw", "no/out"], "make it first"),
        (["siamfc_alexnet_v1", "frames", "--box", "8,6,5,4", "--seed", "1"], "leave the other options out"),
        (["siamfc_alexnet_v1", "frames", "--box", "8,6,5,4", "--option", "channel=3"], "--option channel=3 does not"),
        (["fairmot_dla34", "frames", "--box", "8,6,5,4"], "finds the objects itself; leave it out"),
        (["dimp18", "frames"], "say where it is in the first frame, with --box"),
        (["dimp_overlaps", "frames", "--box", "8,6,5,4"], "dimp_overlaps is none of them"),
        (["siamfcpp_tinyconv", "frames", "--box", "8,6,5,4"], "siamfcpp_tinyconv is none of them"),
        (["squeezenet1_1", "one/0.png", "--box", "8,6,5,4"], "--box: squeezenet1_1 has no use for it"),
        (["mtcnn", "one/0.png", "--box", "8,6,5,4"], "leave the other options out"),
    ],
)
def test_bad_use_is_refused_in_a_line(sequence, monkeypatch, arguments, words):
    monkeypatch.chdir(sequence)
    for name in ("empty", "one", "sizes"):
        (sequence / name).mkdir()
    for name, width in (("one/0", 20), ("sizes/0", 20), ("sizes/1", 30)):
        Image.new("RGB", (width, 20)).save(f"{name}.png")
    for name in ("text.mp4", "text.png"):
        (sequence / name).write_text("text")
    before = sorted(path.name for path in sequence.iterdir())
    result = predict(*arguments, "--checkpoint", "seeded")
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert sorted(path.name for path in sequence.iterdir()) == before


def read(path) -> list[np.ndarray]:
    return [frame for _, frame in frames.Frames([str(path)])]


@pytest.mark.parametrize("name", ["out", "out.gif", "out.mp4"])
def test_what_is_written_is_read_again(sequence, name):
    if name.endswith(".mp4"):
        pytest.importorskip("av")
    source = frames.Frames([str(sequence / "frames")])
    wanted = [frame[:199, :259] for _, frame in source]  # odd: a video is made even
    with frames.writer(sequence / name, source) as write:
        for frame in wanted:
            write(Image.fromarray(frame))
    found = read(sequence / name)
    assert len(found) == 4
    for frame, other in zip(found, wanted):
        assert np.abs(frame[:199, :259].astype(float) - other).mean() < (6 if "." in name else 1e-9)


@pytest.mark.parametrize("name", ["out", "out.gif", "out.mp4"])
def test_an_error_leaves_nothing(sequence, name):
    if name.endswith(".mp4"):
        pytest.importorskip("av")
    before = sorted(path.name for path in sequence.iterdir())
    with (
        pytest.raises(Problem, match="later"),
        frames.writer(sequence / name, frames.Frames([str(sequence / "frames")])) as write,
    ):
        write(Image.new("RGB", (32, 32)))
        raise Problem("later")
    assert sorted(path.name for path in sequence.iterdir()) == before


def test_an_empty_folder_is_filled(sequence):
    (sequence / "out").mkdir()
    with frames.writer(sequence / "out", frames.Frames([str(sequence / "frames")])) as write:
        write(Image.new("RGB", (32, 32)))
    assert len(read(sequence / "out")) == 1
