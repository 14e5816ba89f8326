"""It really learns: both panels follow the saved curves, which fall, and embeddings find more than raw pixels do."""

import dataclasses
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from parity_tests.learning import curves, digits, pictures
from parity_tests.learning.runs import RUNS
from parity_tests.learning.train import PANELS, Learner
from parity_tests.saved import DamagedProof
from weights import catalog
from weights.processing.retrieval.metrics import recall_at_k

SAVED = curves.read()
STEPS = 2  # of a quick test
# one step as a graph and as single operations, on this processor or another
ON_THE_CURVE = 1e-7
FOLLOWED, LOST = 0.75, 0.6  # overlap of a tracker that follows an object, and of one that has learnt nothing
EVERY = pytest.mark.parametrize("name", SAVED)
SLOW = {"byol", "simclr_v1", "swav"}  # whose networks take long to build


def tiers():
    """The first run of each model file by default, the others with ``--full``."""
    first = {}
    for name, run in RUNS.items():
        first.setdefault(run.entry.module, name)
    quick = set(first.values()) - SLOW
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in RUNS]


def first_steps(name: str, package: str) -> tuple[dict, dict]:
    """The first weights and the losses of the first steps."""
    learner = Learner(RUNS[name], package, "float64", graph=False)
    before = learner.panel.state()
    found = [learner.step() for _ in range(STEPS)]
    return before, {loss: [step[loss] for step in found] for loss in found[0]}


def beginning(name: str, package: str) -> dict:
    """The saved losses of the first steps."""
    return {loss: values[:STEPS] for loss, values in SAVED[name]["losses"]["float64"][package].items()}


@pytest.mark.parametrize("name", tiers())
def test_first_steps_lie_on_the_saved_curve(name):
    states, found = {}, {}
    for package in PANELS:
        states[package], found[package] = first_steps(name, package)
    assert states["tf_impl"].keys() == states["torch_impl"].keys()
    for tensor, value in states["tf_impl"].items():
        np.testing.assert_array_equal(value, states["torch_impl"][tensor], err_msg=f"{tensor} at the start")
    assert curves.apart(found).max() <= 1e-10
    for package, losses in found.items():
        assert curves.apart({"found": losses, "saved": beginning(name, package)}).max() <= ON_THE_CURVE


def test_another_learning_rate_leaves_the_curve():
    run = RUNS["arcface"]
    learner = Learner(dataclasses.replace(run, learning_rate=1.01 * run.learning_rate), "torch_impl", "float64")
    found = {"total": [learner.step()["total"] for _ in range(STEPS)]}
    assert curves.apart({"found": found, "saved": beginning("arcface", "torch_impl")})[1] > 1e3 * ON_THE_CURVE


def check(found: dict) -> None:
    """What a run must show."""
    run = RUNS[found["run"]]
    assert found["steps"] == run.steps
    loss, ratio = run.falls
    for package in PANELS:
        values = np.array(found["losses"]["float64"][package][loss])
        steps = np.array(found["at"]["float64"])
        tenth = run.steps / 10
        first = values[(run.settled <= steps) & (steps < run.settled + tenth)].mean()
        last = values[steps >= run.steps - tenth].mean()
        assert last < first - (1 - ratio) * abs(first), (package, first, last)
    parted = {precision: run.steps if step is None else step for precision, step in found["parted"].items()}
    assert parted["float64"] >= (run.together or run.steps)
    # the same beginning in single precision is farther apart
    apart = {precision: curves.apart(panels)[:10].max() for precision, panels in found["losses"].items()}
    assert apart["float64"] < apart["float32"]
    if recall := found.get("recall"):
        after = recall["after"]
        difference = abs(after["tf_impl"] - after["torch_impl"])
        assert difference == 0 if parted["float64"] == run.steps else difference < 0.05
        assert min(after.values()) >= max(recall["before"], recall["pixels"] + run.above)
    if overlap := found.get("overlap"):
        after = overlap["after"]
        assert abs(after["tf_impl"] - after["torch_impl"]) < 0.05
        assert overlap["before"] < LOST < FOLLOWED < min(after.values())


@EVERY
def test_saved_curves_fall_together_and_recall_rises(name):
    check(SAVED[name])


def test_every_saved_curve_has_a_run():
    assert SAVED.keys() == RUNS.keys()


@pytest.mark.slow
@EVERY
def test_whole_runs_confirm_the_saved_curves(name):
    found = curves.measure(RUNS[name])
    check(found)
    for package, losses in found["losses"]["float64"].items():
        saved = SAVED[name]["losses"]["float64"][package]
        assert curves.apart({"found": losses, "saved": saved})[:10].max() <= ON_THE_CURVE


@pytest.mark.parametrize("package", PANELS)
def test_a_tracker_that_was_trained_follows_an_object(package):
    """A part of the whole run, with larger steps, in single precision."""
    run, sequences = dataclasses.replace(RUNS["siamfc"], learning_rate=2e-3), pictures.sequences(3, 8)
    learner = Learner(run, package, "float32")
    before = learner.overlap(sequences)
    for _ in range(80):
        learner.step()
    assert before < LOST < FOLLOWED < learner.overlap(sequences)


# the pieces


def test_differences_are_relative_and_not_larger_near_zero():
    assert curves.differences([1.0, 1e-9], [1.0 + 1e-6, 0.0]).tolist() == pytest.approx([1e-6, 1e-7], rel=1e-4)
    assert curves.parted(np.array([0.0, 2e-6, 0.0])) == 1
    assert curves.parted(np.array([0.0, np.nan])) == 1
    assert curves.parted(np.array([1e-7])) is None
    assert curves.shown_steps(23) == [*range(10), 10, 15, 20, 22]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    found = SAVED["arcface"]
    path = curves.save(found, tmp_path)
    with pytest.raises(TypeError):
        curves.save({**found, "steps": object()}, tmp_path)
    assert json.loads(path.read_text()) == found
    assert curves.read(tmp_path) == {"arcface": found}
    assert list(tmp_path.iterdir()) == [path]


def test_held_out_crops_are_from_elsewhere():
    height, width = 40, 100
    places = np.arange(height * width, dtype=float).reshape(height, width) % width
    rng = np.random.default_rng(0)
    seen, held_out = (pictures.crops(places, rng, 200, 8, training) for training in (True, False))
    assert seen.max() < 60 <= held_out.min()
    assert seen.shape == (200, 8, 8)


def test_held_out_digits_are_others():
    seen = {image.tobytes() for of_class in digits.digits(True) for image in of_class}
    held_out = [image.tobytes() for of_class in digits.digits(False) for image in of_class]
    assert len(held_out) == 400 and len(seen) > 1300 and seen.isdisjoint(held_out)


def test_a_digit_lies_anywhere():
    image = np.random.default_rng(0).uniform(0.1, 1, (8, 8))
    found = digits.placed(np.repeat(image[None], 800, 0), np.random.default_rng(1))
    np.testing.assert_allclose([found.mean((1, 2)), found.std((1, 2)) - 1], 0, atol=1e-12)
    corners = [np.argwhere(picture > picture.min()).min(0) for picture in found]
    assert {tuple(corner) for corner in corners} == {(y, x) for y in range(9) for x in range(9)}
    pieces = np.stack([picture[y : y + 8, x : x + 8] for picture, (y, x) in zip(found, corners)])
    np.testing.assert_allclose(pieces, np.repeat(pieces[:1], 800, 0))


def test_noise_hides_a_digit_from_pixels_not_from_means():
    held_out = digits.held_out_noisy()
    images = held_out["images"][:, 0]
    np.testing.assert_allclose([images.mean((1, 2)), images.std((1, 2)) - 1], 0, atol=1e-12)
    means = images.reshape(400, 8, 4, 8, 4).mean((2, 4))
    pixels, means = (recall_at_k(x.reshape(400, -1), held_out["labels"], (1,))[1] for x in (images, means))
    assert pixels < 0.3 < 0.6 < means
    first, second = digits.views(0)[:, :, 0].reshape(40, 2, -1).transpose(1, 0, 2)
    # 1 / (1 + 4^2): only the digit is the same, not its noise
    assert abs((first * second).mean() - 1 / 17) < 0.02


def test_a_piece_moves_as_its_boxes_say():
    frames, boxes = pictures.moving(np.random.default_rng(0), 60, 9)
    assert frames.shape == (60, pictures.FRAME, pictures.FRAME, 3) and frames.dtype == np.uint8
    x, y, width, height = boxes[0]
    pieces = [frame[y : y + height, x : x + width] for frame, (x, y, *_) in zip(frames, boxes)]
    assert all(np.array_equal(piece, pieces[0]) for piece in pieces)
    steps = np.abs(np.diff(boxes[:, :2], axis=0))
    assert steps.max() <= 9 + 1 and (steps.max(0) > 0).all() and len(np.unique(boxes[:, 2:], axis=0)) == 1
    # what no box has covered is the same in all frames
    free = np.ones(frames.shape[1:3], bool)
    for x, y, width, height in boxes:
        free[y : y + height, x : x + width] = False
    assert free.any() and not np.ptp(frames[:, free], axis=0).any()


def test_batches_depend_on_their_number_only():
    for run in RUNS.values():
        once, again, other = ({**run.batches(step)[0]} for step in (3, 3, 4))
        for name, value in once.items():
            np.testing.assert_array_equal(value, again[name])
            assert not np.array_equal(value, other[name]), (run.name, name)


# the report's page


PAGE = {name: run for name, run in SAVED.items() if run["model"] == "arcface"}


@pytest.fixture(scope="module")
def page():
    """All pages of one system with its trainings."""
    from scripts.report import pages

    return pages.render({"arcface": catalog.get("arcface")}, {}, {}, {}, learned=PAGE)


def test_the_page_has_every_training(page):
    text = page["learning.html"]
    assert 'href="learning.html"' in page["index.html"]
    for name in PAGE:
        assert f'id="{name}"' in text
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        xml.etree.ElementTree.fromstring(drawing)
    assert text.count('class="plane"') == sum("points" in run for run in PAGE.values()) == 1
    assert text.count('class="curve gap"') == len(PAGE) == 2
    for target in re.findall(r'<h3><a href="([^"#]+)', text):
        assert target in page


def test_without_trainings_there_is_no_page():
    from scripts.report import pages

    found = pages.render({"arcface": catalog.get("arcface")}, {}, {}, {})
    assert "learning.html" not in found and "learning.html" not in found["index.html"]


@pytest.mark.parametrize(
    "change",
    [
        {"losses": {}},
        {"steps": "200"},
        {"run": "other"},
        {"worst": {"float64": -1.0, "float32": 0.0}},
        {"at": {"float64": [0], "float32": [0]}},
        {"points": {"labels": [0], "tf_impl": [[0.0, 1.0]], "torch_impl": []}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_damaged_curves_are_refused(tmp_path, change):
    curves.save(SAVED["arcface"], tmp_path)
    assert curves.read(tmp_path)
    (tmp_path / "arcface.json").write_text(json.dumps({**SAVED["arcface"], **change}))
    with pytest.raises(DamagedProof, match=r"arcface\.json: damaged"):
        curves.read(tmp_path)
