"""Taggers of characters: their size, dropout, training over features, and texts without characters."""

import numpy as np

import torch_impl.nlp.word_segmentation as torch_segmentation
from parity_tests.cases.nlp.word_segmentation import SMALL_BILSTM, characters
from parity_tests.test_published import with_masks
from parity_tests.text_models import BOTH, PANELS
from weights import catalog, onnx_file
from weights.processing import word_segmentation as seg
from weights.seeded import seeded


@BOTH
def test_random_field_over_features_learns_words(which):
    sentences = ["研究/生命/的/起源", "北京/大学生/前来/应聘", "结婚/的/和/尚未/结婚/的", "他/来到/了/北京"]
    words = [sentence.split("/") for sentence in sentences]
    texts = ["".join(row) for row in words]
    table = seg.feature_vocabulary(texts)
    inputs = seg.feature_input(texts, table, 10)
    tags = np.full((4, 10), -1)
    for row, sentence in zip(tags, words, strict=True):
        row[: len("".join(sentence))] = ["BMES".index(tag) for tag in seg.bmes(sentence)]
    panel = PANELS[which](catalog.get("linear_crf"), {"num_features": len(table) + 1})
    history = panel.train(inputs, {"tags": tags}, 0.0, steps=12)
    assert history[-1]["total"] < 0.5 * history[0]["total"]
    state = panel.state()
    weights = np.concatenate([array.ravel() for array in state.values()])
    np.testing.assert_allclose(panel.train(inputs, {"tags": tags}, 0.0, 1)[0]["penalty"], 0.1 * (weights**2).sum())
    assert not state["features.weight"][0].any(), "row 0 stays that of no feature"
    found = panel.results(inputs)["tags"]
    cut = [
        seg.words_of(text, ["BMES"[tag] for tag in row[: len(text)]]) for text, row in zip(texts, found, strict=True)
    ]
    assert seg.compare(words, cut) == seg.Scores(1, 1, 1, 1)


def test_size_of_the_lstm():
    model = torch_segmentation.bilstm_crf(vocab_size=10)
    assert sum(p.numel() for p in model.lstm.parameters()) == 302_400
    names = {"embedding.weight", "hidden2tag.weight", "hidden2tag.bias", "crf.transitions", "crf.start_transitions"}
    assert names < set(model.state_dict()) and "lstm.weight_hh_l0_reverse" in model.state_dict()


def test_dropout_is_in_the_same_place_of_both_panels(monkeypatch):
    inputs = characters(8)(np.random.default_rng(0), 3)
    panels = [panel(catalog.get("bilstm_crf"), {**SMALL_BILSTM, "dropout": 0.5}) for panel in PANELS]
    masks, emissions = with_masks(monkeypatch, False), []  # Keras calls the model once while it is built
    for built in panels:
        built.load(seeded(built.shapes()))
        emissions.append(built.outputs(inputs, training=True)["emissions"])
    assert masks[0].rates == masks[1].rates == [0.5]
    assert onnx_file.relative(*emissions) <= 1e-10
    assert onnx_file.relative(emissions[1], built.outputs(inputs)["emissions"]) > 1e-3


@BOTH
def test_text_without_characters_has_no_tags(which):
    inputs = {name: np.zeros((2, 4), np.int64) for name in ("input_ids", "mask")}
    panel = PANELS[which](catalog.get("bilstm_crf"), SMALL_BILSTM)
    assert panel.losses(inputs, {"tags": np.zeros((2, 4), np.int64)})["total"] == 0
    assert (panel.results(inputs)["tags"] == -1).all()
