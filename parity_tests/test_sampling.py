"""How the next token of a text is chosen, and texts that are drawn, in both panels."""

import numpy as np
import pytest

import tf_impl.nlp.gpt_decoding as tf_decoding
import torch_impl.nlp.gpt_decoding as torch_decoding
from parity_tests.cases.nlp.gpt import SMALL_GPT
from parity_tests.text_models import BOTH, TENSOR, built

DECODING = (tf_decoding, torch_decoding)


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def distribution(logits, previous, penalty=1.0, temperature=1.0, top_k=0, top_p=1.0):
    """One row after the other, token by token."""
    found = []
    for row, seen in zip(logits, previous, strict=True):
        row = row.copy()
        for token in set(seen.tolist()):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        row = row / temperature
        order = np.argsort(-row, kind="stable")[: top_k or None]
        p, kept, total = softmax(row[order]), [], 0.0
        for token, share in zip(order, p, strict=True):
            kept.append(token)
            total += share
            if total > top_p:
                break
        found.append(np.zeros(len(row)))
        found[-1][kept] = softmax(row[kept])
    return np.array(found)


OPTIONS = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 3.0},
    "one": {"top_k": 1},
    "three": {"top_k": 3},
    "all": {"top_k": 20},
    "half": {"top_p": 0.5},
    "almost none": {"top_p": 0.0},
    "penalty": {"penalty": 1.7},
    "together": {"penalty": 0.8, "temperature": 0.9, "top_k": 9, "top_p": 0.75},
}


@BOTH
@pytest.mark.parametrize("name", OPTIONS)
def test_distribution(which, name):
    rng = np.random.default_rng(0)
    logits, previous = np.round(2 * rng.standard_normal((4, 20)), 1), rng.integers(0, 20, (4, 5))
    found = DECODING[which].distribution(TENSOR[which](logits), TENSOR[which](previous), **OPTIONS[name])
    expected = distribution(logits, previous, **OPTIONS[name])
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-15)
    assert (expected > 0).sum(1).max() < 20 or name in ("plain", "cold", "hot", "all", "penalty")


@BOTH
def test_first_token_beyond_top_p_is_kept(which):
    logits = np.log([[0.1, 0.5, 0.15, 0.25]])
    for top_p, kept in ((0.4, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        p = np.asarray(DECODING[which].distribution(TENSOR[which](logits), top_p=top_p))
        assert np.flatnonzero(p[0]).tolist() == kept, top_p


@BOTH
def test_draws_follow_the_distribution(which):
    p = np.array([0.1, 0.0, 0.4, 0.1, 0.4])
    uniform = (np.arange(1000) + 0.5) / 1000
    found = DECODING[which].draw(TENSOR[which](np.tile(p, (1000, 1))), TENSOR[which](uniform))
    np.testing.assert_array_equal(np.bincount(np.asarray(found), minlength=5) / 1000, p)
    assert np.asarray(found)[[0, 399, 400, 799, 800, 899, 900]].tolist() == [2, 2, 4, 4, 0, 0, 3], "most probable first"
    halves = TENSOR[which](np.full((2, 2), 0.5))
    border = DECODING[which].draw(halves, TENSOR[which](np.array([0.5, np.nextafter(0.5, 0)])))
    assert np.asarray(border).tolist() == [1, 0]
    first = DECODING[which].draw(TENSOR[which](p[None]), TENSOR[which](np.array([0.0])))
    last = DECODING[which].draw(TENSOR[which](p[None]), TENSOR[which](np.array([np.nextafter(1.0, 0)])))
    assert [int(first[0]), int(last[0])] == [2, 3]
    assert int(DECODING[which].draw(TENSOR[which](p[None]))[0]) == 2


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 and penalty=1.0 must be more than 0"),
        ({"penalty": -1.0}, "penalty=-1.0 must be more than 0"),
        ({"top_k": 21}, "top_k=21 must be 0 to 20"),
        ({"top_k": -1}, "top_k=-1 must be 0 to 20"),
        ({"top_p": 1.5}, "top_p=1.5 0 to 1"),
        ({"penalty": 2.0}, "penalty=2.0 needs previous"),
    ],
)
def test_bad_options_are_refused(which, options, message):
    with pytest.raises(ValueError, match=message):
        DECODING[which].distribution(TENSOR[which](np.zeros((1, 20))), **options)


def test_both_panels_draw_the_same_text():
    options = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "penalty": 1.2}
    start, uniform = np.array([[7, 3], [1, 1]]), np.random.default_rng(2).uniform(size=(2, 12))
    texts = []
    for which in (0, 1):
        model = built(which, "gpt2_step", SMALL_GPT).model
        found = DECODING[which].generate(model, TENSOR[which](start), 12, TENSOR[which](uniform), **options)
        texts.append(np.asarray(found))
    np.testing.assert_array_equal(*texts)
    assert texts[0].shape == (2, 14) and (texts[0][0] != texts[0][1]).any()


@BOTH
def test_texts_that_cannot_be_continued(which):
    model = built(which, "gpt2_step", SMALL_GPT).model
    generate, tensor = DECODING[which].generate, TENSOR[which]
    assert generate(model, tensor(np.ones((1, 10), np.int64)), 7).shape == (1, 17), "the last token is not read"
    with pytest.raises(ValueError, match="10 tokens and 8 new ones exceed the model's 16 positions"):
        generate(model, tensor(np.ones((1, 10), np.int64)), 8)
    with pytest.raises(ValueError, match="input_ids is empty"):
        generate(model, tensor(np.ones((1, 0), np.int64)), 1)
