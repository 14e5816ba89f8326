"""LAC: real weights that tag real sentences in four engines, and the files that they come from."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch

import torch_impl.nlp.word_segmentation as torch_segmentation
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch
from parity_tests.text_models import BOTH, PANELS
from weights import catalog, checkpoints, onnx_file
from weights.processing import lac
from weights.processing import word_segmentation as seg
from weights.processing.text import TextError

FINGERPRINT = fingerprints.load("jieba_lac_sentences")
SENTENCES = [described["text"] for described in FINGERPRINT["inputs"].values()]


@cache
def official():
    """Tensors, characters, and tags by number."""
    with skip_without_package():
        entry, path = checkpoints.fetch(catalog.get("bigru_crf_lac"))
    words = checkpoints.package_file(entry.package, entry.tokenizer)
    tags = lac.open_lexicon(words.with_name("tag.dic"), 57)
    return lac.open_tensors(path), lac.open_lexicon(words, 20941), {number: tag for tag, number in tags.items()}


@cache
def lac_panel(which):
    panel = PANELS[which](catalog.get("bigru_crf_lac"), {}, precision="float32")
    panel.load(official()[0])
    return panel


def test_names_and_size_are_the_files():
    tensors, words, tags = official()
    with torch.device("meta"):
        model = torch_segmentation.bigru_crf_lac()
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == {n: a.shape for n, a in tensors.items()}
    assert sum(array.size for array in tensors.values()) == 3_193_052
    assert (len(words), max(words.values()), len(tags)) == (20_940, 20_940, 57)


@BOTH
def test_fingerprint_of_the_sentences(which):
    panel = lac_panel(which)
    inputs = lac.character_input(official()[1], SENTENCES, 12)
    outputs, results = panel.outputs(inputs), panel.results(inputs)
    emissions = outputs["emissions"]
    for row, (name, expected) in enumerate(FINGERPRINT["outputs"].items()):
        given = FINGERPRINT["inputs"][name]
        length = len(given["text"])
        assert inputs["input_ids"][row, :length].tolist() == given["ids"]
        for figure in compare_with_fingerprint("emissions", emissions[row, :length], expected["emissions"]):
            assert figure.relative <= 1e-5, figure
        np.testing.assert_allclose(results["scores"][row], expected["viterbi_score"], rtol=1e-6)
        tags = [official()[2][tag] for tag in results["tags"][row, :length]]
        shown = " ".join(f"{letter}/{tag}" for letter, tag in zip(given["text"], tags, strict=True))
        assert shown == expected["tags"]
    np.testing.assert_allclose(results["scores"][:2], [82.2006, 79.6664], atol=2e-4)


@BOTH
def test_states_of_both_layers(which):
    """The output of each pair of units, by the layer after it."""
    panel = lac_panel(which)
    inputs = lac.character_input(official()[1], SENTENCES, 12)
    calls = panel.record(inputs)
    for name, layer in (("bigru0", "fc_2"), ("bigru1", "fc_4")):
        given = calls[layer][0][0][0]
        for row, expected in enumerate(FINGERPRINT["outputs"].values()):
            length = expected[name]["shape"][0]
            for figure in compare_with_fingerprint(name, given[row, :length], expected[name]):
                assert figure.relative <= 1e-5, figure


def test_four_engines_tag_real_sentences(tmp_path):
    sentences = ["我来到北京清华大学", "他来到了网易杭研大厦", "2026年11月，小明在上海的图书馆读书𠀀"]
    _, words, tags = official()
    inputs = lac.character_input(words, sentences, 24)
    answers = {}
    for panel in (lac_panel(0), lac_panel(1)):
        answers[panel.package] = panel.outputs(inputs)
        path = panel.export(tmp_path / f"{panel.package}.onnx", inputs, None, {})
        operators = onnx_file.histogram(onnx.load(path))
        assert operators["GRU"] == 2 and not operators["Loop"] and not operators["Scan"]
        answers[f"{panel.package} ONNX"] = onnx_file.run(onnx_file.session(path, threads=1), inputs)
    for engine, found in answers.items():
        chain = [found[f"{name}transitions"] for name in ("start_", "end_", "")]
        cut = []
        for sentence, emissions in zip(sentences, found["emissions"], strict=True):
            numbers, _ = seg.viterbi(emissions[: len(sentence)], *chain)
            cut.append(lac.tagged_words(sentence, [tags[number] for number in numbers.tolist()]))
        assert cut[0] == [("我", "r"), ("来到", "v"), ("北京清华大学", "ORG")], engine
        expected = [("他", "r"), ("来到", "v"), ("了", "u"), ("网易", "ORG"), ("杭研大厦", "LOC")]
        assert cut[1] == expected, engine
        assert ("2026年11月", "TIME") in cut[2] and ("小明", "PER") in cut[2] and ("上海", "LOC") in cut[2], cut[2]
        assert onnx_file.relative(found["emissions"], answers["torch_impl"]["emissions"]) <= 1e-5


def test_words_of_tags():
    assert lac.tagged_words("abcdef", ["n-B", "n-I", "O", "O", "v-B", "O"]) == [
        ("ab", "n"),
        ("cd", "O"),
        ("e", "v"),
        ("f", "O"),
    ]
    assert lac.tagged_words("ab", ["n-I", "v-I"]) == [("ab", "n")]
    with pytest.raises(ValueError, match="1 tags for a text of 2 characters"):
        lac.tagged_words("ab", ["O"])


def test_unknown_characters_have_a_row_of_their_own():
    words = official()[1]
    found = lac.character_input(words, " 我𠀀\n", 4)
    np.testing.assert_array_equal(found["input_ids"], [[words["我"], words["OOV"], 0, 0]])
    np.testing.assert_array_equal(found["mask"], [[1, 1, 0, 0]])
    with pytest.raises(TextError, match="the lexicon lacks 'OOV'"):
        lac.character_input({"我": 0}, "我")


def test_weights_of_another_size_are_refused():
    panel = PyTorch(catalog.get("bigru_crf_lac"), {"num_tags": 5})
    with pytest.raises(ValueError, match="crfw"):
        panel.load(official()[0])
