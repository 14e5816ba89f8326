"""Performer and Reformer: what they see, new random features, and positions."""

import numpy as np
import pytest

from parity_tests.cases.nlp.efficient import SMALL_PERFORMER, SMALL_REFORMER, hashed_words, words
from parity_tests.text_models import BOTH, PANELS
from weights import catalog
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")


def built(which, model, example=None, **options):
    if model == "reformer_lm" and example is None:
        example = hashed_words(np.random.default_rng(0), 1)
    panel = PANELS[which](catalog.get(model), options, example=example)
    panel.load(seeded(panel.shapes(), panel.aliases()), strict=False)
    return panel


@BOTH
@pytest.mark.parametrize("model", ["performer_lm", "reformer_lm"])
def test_feed_forward_in_chunks_is_the_same(model, which):
    inputs = words(16)(np.random.default_rng(0), 2) if "per" in model else hashed_words(np.random.default_rng(0), 2)
    small = {**(SMALL_PERFORMER if "per" in model else SMALL_REFORMER), "depth": 1}
    whole, parts = (built(which, model, **small, ff_chunks=chunks) for chunks in (1, 5))
    np.testing.assert_allclose(parts.outputs(inputs)["logits"], whole.outputs(inputs)["logits"], rtol=0, atol=1e-14)


@BOTH
def test_performer_sees_neither_padding_nor_later_words(which):
    inputs = words(11)(np.random.default_rng(0), 2)
    options = {**SMALL_PERFORMER, "depth": 1, "kernel": "relu", "local_attn_heads": 1, "local_window_size": 4}
    panel = built(which, "performer_lm", **options)
    expected = panel.outputs(inputs)["logits"]
    later = {**inputs, "input_ids": inputs["input_ids"].copy()}
    later["input_ids"][:, 6:] = 3
    found = panel.outputs(later)["logits"]
    np.testing.assert_allclose(found[:, :6], expected[:, :6], rtol=0, atol=1e-13)
    assert np.abs(found[:, 6:] - expected[:, 6:]).max() > 1e-3
    panel = built(which, "performer_lm", **{**options, "kernel": "softmax"}, causal=False)
    padded = {**inputs, "input_ids": np.where(inputs["attention_mask"], inputs["input_ids"], 7)}
    seen = inputs["attention_mask"] == 1
    found, expected = (panel.outputs(x)["logits"][seen] for x in (padded, inputs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@BOTH
def test_without_epsilon_later_words_change_nothing_but_rounding(which):
    """With the reference's they change earlier outputs through the largest exponent of all keys."""
    inputs = words(11)(np.random.default_rng(0), 2)
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    later = {**inputs, "input_ids": np.concatenate([inputs["input_ids"][:, :6], inputs["input_ids"][:, 6:] + 1], 1)}
    moved = {}
    for eps in (None, 0.0):
        panel = built(which, "performer_lm", **SMALL_PERFORMER, feature_eps=eps)
        found, expected = (panel.outputs(given)["logits"][:, :6] for given in (later, inputs))
        moved[eps] = np.abs(found - expected).max()
    assert moved[0.0] < 1e-12 < 1e-6 < moved[None]


def test_features_are_drawn_anew_after_the_interval_and_alike():
    states = []
    for which in (0, 1):
        panel = built(which, "performer_lm", **SMALL_PERFORMER, feature_redraw_interval=2)
        rng, performer = np.random.default_rng(5), panel.model.performer
        before, seen = panel.state(), []
        for _ in range(5):
            performer.redraw_projections(rng)
            seen.append(int(panel.state()["performer.proj_updater.calls_since_last_redraw"]))
        assert seen == [1, 2, 0, 1, 2]
        states.append(panel.state())
        changed = {n for n, value in states[-1].items() if not np.array_equal(value, before[n])}
        assert {n.rpartition(".")[2] for n in changed} == {"projection_matrix", "calls_since_last_redraw"}
        rows = states[-1]["performer.net.layers.1.0.fn.fast_attention.projection_matrix"]
        np.testing.assert_allclose(np.triu(rows[:8] @ rows[:8].T, 1), 0, atol=1e-12)
        fixed = built(which, "performer_lm", **SMALL_PERFORMER, feature_redraw_interval=None)
        fixed.model.performer.redraw_projections(None)
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=0, atol=1e-12, err_msg=name)


@BOTH
def test_as_built(which):
    """266 features for heads of 64, orthogonal; fixed positions in two halves."""
    small = {"num_tokens": 50, "max_seq_len": 12, "dim": 64, "depth": 1, "heads": 1, "dim_head": 64}
    state = PANELS[which](catalog.get("performer_lm"), small).state()
    rows = state["performer.net.layers.0.0.fn.fast_attention.projection_matrix"]
    assert rows.shape == (266, 64)
    np.testing.assert_allclose(np.triu(rows[:64] @ rows[:64].T, 1), 0, atol=1e-4)
    assert abs((rows**2).sum(1).mean() - 64) < 5
    angles = np.arange(12)[:, None] * 10000.0 ** (-np.arange(0, 64, 2) / 64)
    for name in ("pos_emb.emb", "layer_pos_emb.emb"):
        np.testing.assert_allclose(state[name], np.c_[np.sin(angles), np.cos(angles)], rtol=0, atol=1e-7)


@BOTH
def test_more_words_than_positions_are_refused(which):
    for model, make, small in (
        ("performer_lm", words(), SMALL_PERFORMER),
        ("reformer_lm", hashed_words, SMALL_REFORMER),
    ):
        inputs = make(np.random.default_rng(0), 2)
        panel = built(which, model, **{**small, "depth": 1})
        longer = panel.tensors({**inputs, "input_ids": np.ones((1, 40), np.int64)})
        with pytest.raises(ValueError, match="40 words are more than max_seq_len=32"):
            panel.model(*longer.values())


@BOTH
@pytest.mark.parametrize("positions", ["fixed", "absolute", "axial"])
def test_positions_of_the_reformer(positions, which):
    """They are added to the words: at the same word, the layers' input differs by the position alone."""
    panel = built(which, "reformer_lm", **SMALL_REFORMER, positions=positions)
    state = panel.state()
    found = np.asarray(panel.model.pos_emb(length=16).detach() if which else panel.model.pos_emb(length=16))
    if positions == "axial":
        rows, columns = state["pos_emb.weights.0"], state["pos_emb.weights.1"]
        assert rows.shape == (1, 8, 1, 32) and columns.shape == (1, 1, 4, 32)
        expected = np.stack([rows[0, t // 4, 0] + columns[0, 0, t % 4] for t in range(16)])
    elif positions == "absolute":
        expected = state["pos_emb.emb.weight"][:16]
    else:
        angles = np.arange(16)[:, None] * 10000.0 ** (-np.arange(0, 32, 2) / 32)
        expected = np.c_[np.sin(angles), np.cos(angles)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@BOTH
def test_reformer_with_full_attention_needs_no_hash(which):
    inputs = hashed_words(np.random.default_rng(0), 2)
    panel = built(which, "reformer_lm", **SMALL_REFORMER, positions="absolute", use_full_attn=True)
    other = {**inputs, "rotations": -3 * inputs["rotations"]}
    expected = panel.outputs(inputs)["logits"]
    np.testing.assert_array_equal(panel.outputs(other)["logits"], expected)
    # two buckets see everything, too
    few = {**inputs, "rotations": inputs["rotations"][:, :, :1, :1]}
    hashed = built(which, "reformer_lm", few, **{**SMALL_REFORMER, "bucket_size": 8}, positions="absolute")
    seen = inputs["attention_mask"] == 1
    np.testing.assert_allclose(hashed.outputs(few)["logits"][seen], expected[seen], rtol=0, atol=1e-12)
