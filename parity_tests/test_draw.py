"""Drawn answers: hand-made outputs whose correct drawing is known, and the command on seeded weights."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from scripts import answer, draw, questions
from scripts.cli import main
from weights import catalog


def test_colours_are_those_of_pascal_voc():
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert [draw.colour(k) for k in range(5)] == expected
    assert draw.colour(20) == (0, 64, 128)


def test_class_map_lies_over_the_picture():
    classes = np.zeros((4, 6), int)
    classes[:, 3:] = 1
    found = np.asarray(draw.class_map(Image.new("RGB", (12, 8), (100, 100, 100)), classes, [(0, 0, 0), (128, 0, 0)]))
    assert found.shape == (4, 6, 3)
    np.testing.assert_allclose(found[0, 0], 40, atol=1)  # 0.4 * 100 + 0.6 * 0
    np.testing.assert_allclose(found[0, 5], [40 + 77, 40, 40], atol=1)  # 0.6 * 128 more of red


@pytest.mark.parametrize(
    ("count", "number", "name", "colour"),
    [
        (19, 0, "road", (128, 64, 128)),  # Cityscapes
        (19, 18, "bicycle", (119, 11, 32)),
        (21, 0, "background", (0, 0, 0)),  # PASCAL VOC
        (21, 15, "person", (192, 128, 128)),
        (150, 2, "sky", (6, 230, 230)),  # ADE20K
        (150, 149, "flag", (92, 0, 255)),
        (11, 10, "bike", (0, 128, 192)),  # CamVid
        (2, 1, "class 1", (128, 0, 0)),
    ],
)
def test_classes_of_a_map_are_those_of_its_data_set(count, number, name, colour):
    names, colours = questions.map_classes(catalog.Checkpoint("seeded", ""), count)
    assert len(names) == len(colours) == count and len(set(names)) == count
    assert (names[number], colours[number]) == (name, colour)


def test_published_segmenters_have_named_classes():
    models = [m for m in catalog.load().values() if m.family == "segmentation" and "logits" in m.outputs]
    without = {m.module for m in models if m.outputs["logits"].shape[1] not in questions.DATA_SETS}
    assert without == {"segmentation.sliding", "segmentation.unet_plain"}  # a vessel or an object, and what is not


def test_shares_agreement_and_colours_of_hand_made_maps(tmp_path):
    """A map of road with a quarter of sky, on whose sky one engine has a pixel of car."""
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    entry = catalog.Checkpoint("seeded", "")
    question = questions.class_maps(catalog.get("fcn_r50_d8"), entry, questions.Request([str(tmp_path / "a.png")]))
    labels = np.zeros((1, 6, 8), int)
    labels[:, :3, :4] = 10
    found = {engine: {"logits": np.zeros((1, 19, 1, 1)), "labels": labels.copy()} for engine in answer.ENGINES}
    found["PyTorch"]["labels"][0, 0, 0] = 13
    rows = {row["row"]: row["text"] for row in question.read(*[found["TensorFlow"]] * 2)}
    assert len(rows) == 19 and rows["sky"] == "25.00%" and rows["road"] == "75.00%" and rows["car"] == "0.00%"
    assert question.common(found)[0]["text"] == f"{47 / 48:.2%}"
    sheet = np.asarray(question.draw(found))
    top = draw.MARGIN + draw.LINE
    np.testing.assert_allclose(sheet[top, 2 * draw.MARGIN + 8], np.array([70, 130, 180]) * 0.6, atol=1)
    np.testing.assert_allclose(sheet[top + 5, 2 * draw.MARGIN + 8], np.array([128, 64, 128]) * 0.6, atol=1)
    for colour in ((128, 64, 128), (70, 130, 180), (0, 0, 142)):
        assert (sheet == colour).all(-1).sum() > 50  # a square of the legend


def test_boxes_are_where_they_should_be():
    found = [{"box": [10, 20, 40, 50], "class": 0, "text": ""}]
    picture = np.asarray(draw.boxes(Image.new("RGB", (64, 64)), found))
    red = (picture == draw.colour(1)).all(-1)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 50, 10, 40)
    assert not red[30:40, 20:30].any()  # hollow


def test_regions_are_translucent_and_the_first_lies_on_top():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, :4], masks[1, 2:] = True, True
    found = np.asarray(draw.regions(Image.new("RGB", (8, 6), (100, 100, 100)), masks))
    np.testing.assert_array_equal(found[3, 0], (np.array([100, 100, 100]) + draw.colour(1)) / 2)
    np.testing.assert_array_equal(found[5, 7], (np.array([100, 100, 100]) + draw.colour(2)) / 2)


def test_pictures_stand_in_a_row_with_a_legend():
    one, two = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (30, 20), "blue")
    sheet = np.asarray(draw.side_by_side({"a": one, "b": two}, {"cat": (1, 2, 3)}))
    top = draw.MARGIN + draw.LINE
    assert (sheet[top : top + 20, 8:38] == (255, 0, 0)).all() and (sheet[top : top + 20, 46:76] == (0, 0, 255)).all()
    assert ((sheet[top + 20 :] == (1, 2, 3)).all(-1)).sum() > 50


@pytest.mark.parametrize("model", ["segnet_basic", "cyclegan_resnet_6blocks"])
def test_predict_draws_four_engines(tmp_path, model):
    photograph, out = tmp_path / "photo.png", tmp_path / "out.png"
    noise = np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(photograph)
    arguments = ["predict", model, str(photograph), "--checkpoint", "seeded", "--draw", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "PyTorch's ONNX" in result.output and ("all four agree" in result.output) == (model == "segnet_basic")
    with Image.open(out) as sheet:
        assert sheet.width == 5 * 48 + 6 * draw.MARGIN


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segnet_basic", "a.png", "b.png"], "takes one picture, and 2"),
        (["segnet_basic", "a.png", "--draw", "out.txt"], "ends in .png"),
        (["squeezenet1_1", "a.png", "--draw", "out.png"], "are a table"),
    ],
)
def test_bad_use_is_refused_and_leaves_nothing(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(name)
    result = CliRunner().invoke(main, ["predict", *arguments, "--checkpoint", "seeded"])
    assert result.exit_code == 2 and words in str(result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
