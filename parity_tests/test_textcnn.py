"""TextCNN: its forms, its padding and masks, its training, and sentences as its input."""

import numpy as np
import pytest

import tf_impl.nlp.textcnn as tf_textcnn
import torch_impl.nlp.textcnn as torch_textcnn
from parity_tests.cases.nlp.text_classifiers import SMALL_TEXTCNN, sentences
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.processing.sentences import split, vocabulary, word_input, word_table
from weights.processing.text import TextError
from weights.seeded import seeded

PANELS = (TensorFlow, PyTorch)
MODULES = (tf_textcnn, torch_textcnn)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
INPUTS = sentences()(np.random.default_rng(0), 2)


def built(which, name="textcnn_rand", fill=True, **options):
    example = {"input_ids": np.ones((1, 9), np.int64)}
    panel = PANELS[which](catalog.get(name), {**SMALL_TEXTCNN, **options}, example=example)
    if fill:
        panel.load(seeded(panel.shapes()))
    return panel


def by_hand(state, ids, sizes=(3, 4, 5), padding=4, mask=False):
    """The logits, window by window."""
    tables = [state[name] for name in ("embed.weight", "embed_static.weight") if name in state]
    logits = []
    for row in ids:
        row = [0] * padding + list(row) + [0] * padding
        features = []
        for i, size in enumerate(sizes):
            kernel, bias = state[f"convs.{i}.weight"], state[f"convs.{i}.bias"]
            values = []
            for start in range(len(row) - size + 1):
                window = row[start : start + size]
                if mask and not any(window):
                    continue
                channels = [(kernel[:, 0] * table[window]).sum((1, 2)) for table in tables]
                values.append(np.maximum(sum(channels) + bias, 0))
            features.append(np.max(values, 0))
        logits.append(state["fc1.weight"] @ np.concatenate(features) + state["fc1.bias"])
    return np.array(logits)


@BOTH
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", ["textcnn_rand", "textcnn_multichannel"])
def test_logits_are_those_of_windows(which, name, mask):
    panel = built(which, name, mask_padding=mask)
    state = panel.state()
    # whole windows of padding would win with these
    state |= {f"convs.{i}.bias": np.where(np.arange(4) % 2, -9.0, 1.0) for i in range(3)}
    state |= {f"convs.{i}.weight": -np.abs(state[f"convs.{i}.weight"]) for i in range(3)}
    for table in ("embed.weight", "embed_static.weight"):
        if table in state:
            state[table] = np.abs(state[table])
            state[table][0] = 0
    panel.load(state)
    expected = by_hand(state, INPUTS["input_ids"], mask=mask)
    np.testing.assert_allclose(panel.outputs(INPUTS)["logits"], expected, rtol=0, atol=1e-12)
    other = by_hand(state, INPUTS["input_ids"], mask=not mask)
    assert np.abs(other - expected).max() > 1e-3, "the mask does something"


@BOTH
def test_sentence_without_words_gives_the_classifiers_bias(which):
    panel = built(which, mask_padding=True)
    logits = panel.outputs({"input_ids": np.zeros((2, 6), np.int64)})["logits"]
    np.testing.assert_allclose(logits, np.tile(panel.state()["fc1.bias"], (2, 1)), rtol=1e-12)


@BOTH
def test_sizes_of_the_forms(which):
    sizes = {}
    for name in ("textcnn_rand", "textcnn_static", "textcnn_non_static", "textcnn_multichannel"):
        panel = built(which, name)
        gradients = panel.gradients(INPUTS, {"labels": np.array([0, 2])})
        sizes[name] = [sum(a.size for a in panel.state().values()), "embed.weight" in gradients]
        assert "embed_static.weight" not in gradients
    rest = 4 * 8 * 12 + 12 + 3 * 12 + 3
    assert sizes == {
        "textcnn_rand": [400 + rest, True],
        "textcnn_static": [400 + rest, False],
        "textcnn_non_static": [400 + rest, True],
        "textcnn_multichannel": [800 + rest, True],
    }


@BOTH
def test_initial_values(which):
    state = built(which, "textcnn_multichannel", fill=False, vocab_size=300).state()
    for name in ("embed.weight", "embed_static.weight"):
        assert not state[name][0].any()
        assert 0.24 < np.abs(state[name]).max() <= 0.25 and abs(state[name].mean()) < 0.02
    assert 0.009 < np.abs(state["convs.2.weight"]).max() <= 0.01
    assert not any(state[name].any() for name in ("convs.0.bias", "fc1.weight", "fc1.bias"))
    assert (state["embed.weight"] != state["embed_static.weight"]).any()


@BOTH
def test_wrong_channels_and_short_sentences_are_named(which):
    with pytest.raises(ValueError, match="channels must be 'trained', 'fixed' or 'both', got 'static'"):
        MODULES[which].TextCNN(channels="static")
    panel = built(which, padding=1)
    assert panel.outputs({"input_ids": np.ones((1, 3), np.int64)})["logits"].shape == (1, 3)
    with pytest.raises(ValueError, match="4 tokens with padding; filters of 5 need more"):
        panel.outputs({"input_ids": np.ones((1, 2), np.int64)})


# training


@BOTH
def test_a_step_is_adadelta_then_the_bound_and_the_padding(which):
    panel = built(which)
    start = panel.state()
    start["fc1.weight"] = start["fc1.weight"] * np.array([[9.0], [0.1], [9.0]])
    panel.load(start)
    targets = {"labels": np.array([0, 2])}
    gradients, again = [], built(which)
    again.load(start)
    sums = {name: [np.zeros_like(value), np.zeros_like(value)] for name, value in start.items()}
    state = dict(start)
    for _ in range(2):
        again.load(state)
        gradients = again.gradients(INPUTS, targets)
        for name, g in gradients.items():
            squares, steps = sums[name]
            squares[:] = 0.95 * squares + 0.05 * g**2
            step = -np.sqrt(steps + 1e-6) / np.sqrt(squares + 1e-6) * g
            steps[:] = 0.95 * steps + 0.05 * step**2
            state[name] = state[name] + step
        norm = np.sqrt((state["fc1.weight"] ** 2).sum(1, keepdims=True))
        state["fc1.weight"] = state["fc1.weight"] * np.minimum(norm, 3) / (1e-7 + norm)
        state["embed.weight"][0] = 0
    panel.train(INPUTS, targets, 0.0, steps=2)
    found = panel.state()
    for name, value in state.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)
    norms = np.sqrt((found["fc1.weight"] ** 2).sum(1))
    np.testing.assert_allclose(norms[0], 3, rtol=1e-6)
    assert norms[1] < 1 and start["embed.weight"][0].any() and not found["embed.weight"][0].any()


@BOTH
def test_fixed_vectors_stay(which):
    for name, fixed in (("textcnn_static", "embed.weight"), ("textcnn_multichannel", "embed_static.weight")):
        panel = built(which, name)
        before = panel.state()
        panel.train(INPUTS, {"labels": np.array([0, 2])}, 0.0, steps=1)
        after = panel.state()
        np.testing.assert_array_equal(after[fixed][1:], before[fixed][1:])
        assert np.abs(after["convs.0.weight"] - before["convs.0.weight"]).max() > 0


@BOTH
def test_it_learns_which_words_matter(which):
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 20, (50, 9))
    labels = np.arange(50) % 2
    ids[np.arange(50), rng.integers(0, 9, 50)] = 1 + labels
    inputs, targets = {"input_ids": ids}, {"labels": labels}
    panel = PANELS[which](catalog.get("textcnn_rand"), {**SMALL_TEXTCNN, "num_classes": 2})
    panel.load(seeded(panel.shapes()))
    history = panel.train(inputs, targets, 0.0, steps=40)
    assert history[-1]["total"] < 0.4 * history[0]["total"]
    np.testing.assert_array_equal(panel.results(inputs)["classes"][:, 0], labels)


# sentences


def test_split():
    words = split("It's GREAT, isn't it? (Yes!) They've said: I'd go -- we'll see 3.5 rock'n'roll")
    assert " ".join(words) == "it 's great , is n't it ? ( yes ! ) they 've said i 'd go we 'll see 3 5 rock'n'roll"
    assert split("  \n") == []


TEXTS = ["a good film", "a bad, bad film!", "good"]


def test_vocabulary_and_input():
    words = vocabulary(TEXTS)
    assert words == {"a": 1, "good": 2, "film": 3, "bad": 4, ",": 5, "!": 6}
    assert vocabulary(TEXTS, least=2) == {"a": 1, "good": 2, "film": 3, "bad": 4}
    found = word_input(words, ["A good one", "film"])
    np.testing.assert_array_equal(found["input_ids"], [[1, 2], [3, 0]])
    assert found["input_ids"].dtype == np.int64
    np.testing.assert_array_equal(word_input(words, "bad", length=4, vocab_size=7)["input_ids"], [[4, 0, 0, 0]])


def test_word_table():
    words = vocabulary(TEXTS)
    random = np.random.default_rng(0).random((7, 5))
    table = word_table(words, {"bad": np.arange(5.0), "other": np.ones(5)}, random)
    np.testing.assert_array_equal(table[[0, 4]], [np.zeros(5), np.arange(5)])
    np.testing.assert_allclose(table[[1, 2, 3, 5, 6]], (random * 0.5 - 0.25)[[1, 2, 3, 5, 6]], rtol=1e-6)
    assert table.dtype == np.float32
    with pytest.raises(ValueError, match=r"random of shape \(6, 5\) must have 7 rows"):
        word_table(words, {}, random[1:])
    with pytest.raises(ValueError, match=r"vectors\['bad'\] of shape \(4,\) must have shape \(5,\)"):
        word_table(words, {"bad": np.ones(4)}, random)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no sentence was given"),
        ("", {}, "sentence 0 is empty"),
        (["a", "\t"], {}, "sentence 1 is empty"),
        ("中文", {}, "sentence 0: '中文' has no known words"),
        ("unseen words", {}, "sentence 0: 'unseen words' has no known words"),
        ([3], {}, "sentence 0: 3 is no text"),
        ("\ud83e", {}, "half of a surrogate pair"),
        ("a bad film", {"length": 2}, "sentence 0 has 3 words, more than 2"),
        ("a", {"vocab_size": 6}, "words up to 6 do not fit the 6 rows of the weights"),
    ],
)
def test_bad_sentences_are_refused(texts, options, message):
    with pytest.raises(TextError, match=message) as error:
        word_input(vocabulary(TEXTS), texts, **options)
    assert "\n" not in str(error.value)


def test_vocabulary_needs_words():
    with pytest.raises(TextError, match="no word occurs 3 times or more"):
        vocabulary(TEXTS, least=3)
    with pytest.raises(TextError, match="no word occurs 1 times or more"):
        vocabulary([])
