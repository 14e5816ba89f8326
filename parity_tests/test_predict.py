"""``diptych predict`` for image embeddings, generators, faces and joints: hand-made answers, and the command."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from parity_tests.harness import fingerprints
from parity_tests.harness.packages import skip_without_package
from scripts import answer, draw, questions
from scripts.cli import main
from weights import catalog, checkpoints
from weights.processing.retrieval.reranking import rerank

MODELS = catalog.load()
ENTRY = catalog.Checkpoint("seeded", "")


@pytest.fixture
def folder(tmp_path):
    """An image, and a folder with three others and a text."""
    Image.fromarray(data.astronaut()[:96, :64]).save(tmp_path / "query.png")
    (tmp_path / "known").mkdir()
    for name, value in (("a", 10), ("b", 120), ("c", 240)):
        Image.new("RGB", (32, 64), (value, 50, 99)).save(tmp_path / "known" / f"{name}.png")
    (tmp_path / "known" / "notes.txt").write_text("no picture")
    return tmp_path


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_nearest_pictures_of_a_folder(folder):
    """By the angle between vectors, whatever their lengths; the text is not an image."""
    request = questions.Request([str(folder / "query.png")], 2, folder / "known")
    question = questions.embeddings(MODELS["reid_baseline_resnet18"], ENTRY, request)
    assert question.feed["images"].shape == (4, 3, 256, 128)
    vectors = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0], [5.0, 0.0]])
    rows = question.read({"embedding": vectors})
    assert [row["text"] for row in rows] == ["c.png 1.0000", "b.png 0.6000"]
    sheet = question.draw({engine: {"embedding": vectors} for engine in answer.ENGINES})
    top = 2 * (draw.MARGIN + draw.LINE)  # of the first row of images
    left = 2 * draw.MARGIN + 64  # of the nearest one, next to the query
    assert sheet.getpixel((left + 16, top + 32)) == (240, 50, 99)
    alike = {engine: {"embedding": np.ones((4, 2))} for engine in answer.ENGINES}
    assert question.draw(alike).width == sheet.width, "pictures of equal cosines stand beside each other"


def test_pictures_are_ranked_by_shared_neighbours_too(folder):
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / "known" / f"{i:02}.png")
    request = questions.Request([str(folder / "query.png")], 33, folder / "known", rerank=True)
    vectors = rng.standard_normal((34, 4))
    rows = questions.embeddings(MODELS["reid_baseline_resnet18"], ENTRY, request).read({"embedding": vectors})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    away = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    order = np.argsort(rerank(away[:1, 1:], away[:1, :1], away[1:, 1:], k1=20)[0], kind="stable")
    names = sorted(path.name for path in (folder / "known").glob("*.png"))
    assert [row["text"].split()[0] for row in rows] == [names[i] for i in order]
    cosines = [row["cosine"] for row in rows]
    assert cosines != sorted(cosines, reverse=True), "the order is another one than that of the cosines"


def test_the_command_finds_near_pictures(folder):
    for name in ("a", "c"):
        (folder / "known" / f"{name}.png").unlink()
    Image.open(folder / "query.png").save(folder / "known" / "same.png")
    arguments = ("reid_baseline_resnet18", folder / "query.png", "--index", folder / "known", "--checkpoint", "seeded")
    result = predict(*arguments, "--draw", folder / "out.png", "--json")
    assert result.exit_code == 0, result.output
    for engine in json.loads(result.stdout)["engines"].values():
        first = engine["answers"][0]
        assert first["picture"].endswith("same.png") and first["cosine"] == pytest.approx(1, abs=1e-6)
    assert Image.open(folder / "out.png").height > 4 * 96


def test_a_picture_from_noise(tmp_path):
    said = ("pggan_generator", "--option", "size=16", "--checkpoint", "seeded", "--json")
    found = [json.loads(predict(*said, "--seed", seed, "--draw", tmp_path / "out.png").stdout) for seed in (7, 8)]
    means = [one["engines"]["PyTorch"]["answers"][0]["mean"] for one in found]
    assert means[0] != means[1] and all(one["difference"] < 1e-4 for one in found)
    assert Image.open(tmp_path / "out.png").width == 4 * 16 + 5 * draw.MARGIN


def test_the_face_of_the_astronaut_in_four_engines(tmp_path):
    """With the weights that facenet-pytorch ships, its own answer."""
    with skip_without_package():
        checkpoints.fetch(MODELS["mtcnn_pnet"])
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.png")
    result = predict("mtcnn", tmp_path / "photo.png", "--top", 2, "--json", "--draw", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    stages = fingerprints.load("facenet_pytorch_mtcnn_astronaut")["outputs"]["default"]["stages"]
    box, points = (np.ravel(stages[f"final.{name}"]["data"]) for name in ("boxes_and_prob", "points"))
    for engine in json.loads(result.stdout)["engines"].values():
        face, nothing = engine["answers"]
        assert nothing["text"] == "nothing"
        np.testing.assert_allclose([*face["box"], face["score"]], box, atol=1e-3)
        np.testing.assert_allclose(np.ravel(face["landmarks"]), points, atol=1e-3)
    assert Image.open(tmp_path / "out.png").width == 4 * 512 + 5 * draw.MARGIN


def test_joints_are_read_and_drawn(tmp_path):
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    question = questions.joints(MODELS["hourglass_1"], ENTRY, questions.Request([str(tmp_path / "a.png")]))
    points = np.full((1, 16, 2), 200.0)
    points[0, 3] = 40, 30
    results = {"keypoints": points, "scores": np.full((1, 16), 0.5)}
    assert question.read({}, results)[3]["text"] == "(40.0, 30.0) 50%"
    sheet = question.draw({"PyTorch": results})
    assert sheet.getpixel((draw.MARGIN + 40, draw.MARGIN + draw.LINE + 30)) == draw.colour(4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reid_baseline_resnet18", "query.png"], "give several, or a folder with --index"),
        (["reid_baseline_resnet18", "query.png", "--rerank"], "give it with --index"),
        (["reid_baseline_resnet18", "query.png", "--index", "none"], "no such folder"),
        (["reid_baseline_resnet18", "query.png", "query.png", "--index", "known"], "takes one picture, and 2"),
        (["squeezenet1_1", "query.png", "--index", "known"], "--index and --rerank: squeezenet1_1 has no use for it"),
        (["squeezenet1_1", "query.png", "--seed", "3"], "--seed: squeezenet1_1 has no use for it"),
        (["squeezenet1_1"], "needs an INPUT"),
        (["pggan_generator", "query.png"], "makes pictures from noise, and takes none"),
        (["mtcnn"], "takes one picture, and 0"),
        (["mtcnn", "query.png", "--draw", "out.txt"], "ends in .png"),
        (["mtcnn", "query.png", "--seed", "3"], "leave the other options out"),
        (["mtcnn", "query.png", "--option", "channels=3"], "leave the other options out"),
    ],
)
def test_bad_use_is_refused_in_a_line(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    result = predict(*arguments, "--checkpoint", "seeded")
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(Exception, match="no picture in it"):
        questions.pictures_in(tmp_path)
