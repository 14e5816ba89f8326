"""TextCNN: its variants, its padding and masks, and its training."""

import numpy as np
import pytest

import tf_impl.nlp.textcnn as tf_textcnn
import torch_impl.nlp.textcnn as torch_textcnn
from parity_tests.cases.nlp.text_classifiers import SMALL_TEXTCNN, sentences
from parity_tests.text_models import BOTH, PANELS, textcnn
from weights import catalog
from weights.seeded import seeded

MODULES = (tf_textcnn, torch_textcnn)
INPUTS = sentences()(np.random.default_rng(0), 2)


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
    panel = textcnn(which, name, mask_padding=mask)
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
    panel = textcnn(which, mask_padding=True)
    logits = panel.outputs({"input_ids": np.zeros((2, 6), np.int64)})["logits"]
    np.testing.assert_allclose(logits, np.tile(panel.state()["fc1.bias"], (2, 1)), rtol=1e-12)


@BOTH
def test_sizes_of_the_forms(which):
    sizes = {}
    for name in ("textcnn_rand", "textcnn_static", "textcnn_non_static", "textcnn_multichannel"):
        panel = textcnn(which, name)
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
    state = textcnn(which, "textcnn_multichannel", fill=False, vocab_size=300).state()
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
    panel = textcnn(which, padding=1)
    assert panel.outputs({"input_ids": np.ones((1, 3), np.int64)})["logits"].shape == (1, 3)
    with pytest.raises(ValueError, match="4 tokens with padding; filters of 5 need more"):
        panel.outputs({"input_ids": np.ones((1, 2), np.int64)})


@BOTH
def test_fixed_vectors_stay(which):
    for name, fixed in (("textcnn_static", "embed.weight"), ("textcnn_multichannel", "embed_static.weight")):
        panel = textcnn(which, name)
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
