"""Greedy and beam search in both panels: all hypotheses, the algorithm on plain lists, ties, and when it stops."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.beam_search as tf_search
import torch_impl.nlp.beam_search as torch_search

SEARCHES = (tf_search, torch_search)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
EOS, PAD = 2, 1


def language(which, vocabulary=5, seed=0):
    """A model whose next word depends on the whole sentence so far, and its numpy twin ``score(sample, words)``."""
    rng = np.random.default_rng(seed)
    tables = rng.standard_normal((3, 6, vocabulary, vocabulary)) * 1.5  # by sample, position, last word

    def log_p(sample, position, last, total):
        logits = tables[sample, position, last] + 0.3 * np.sin(total)[..., None] * np.arange(vocabulary)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def step(words, position, state):
        words, sample, total = (np.asarray(x) for x in (words, state["sample"], state["total"]))
        total = total + words
        return TENSOR[which](log_p(sample, position, words, total)), {**state, "total": TENSOR[which](total)}

    def score(sample, words):
        total, last, found = 0, EOS, 0.0
        for position, word in enumerate(words):
            total = total + last
            found += log_p(sample, position, np.array(last), np.array(total))[word]
            last = word
        return found

    state = {"sample": TENSOR[which](np.arange(3)), "total": TENSOR[which](np.zeros(3, np.int64))}
    return step, state, TENSOR[which](np.full(3, EOS)), score


def padded(words, length):
    return [*words, *[PAD] * (length - len(words))]


@BOTH
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_beam_that_drops_nothing_finds_the_best_of_all(alpha, which):
    step, state, start, score = language(which)
    found = SEARCHES[which].beam_search(step, state, start, 3, EOS, PAD, beams=60, alpha=alpha)
    others = [word for word in range(5) if word != EOS]
    ended = [(*words, EOS) for n in range(3) for words in itertools.product(others, repeat=n)]
    for sample in range(3):
        penalised = {w: score(sample, w) / ((5 + len(w)) / 6) ** alpha for w in ended}
        best = sorted(penalised, key=lambda w: -penalised[w])
        words = np.asarray(found["words"])[sample, : len(best)].tolist()
        assert words == [padded(w, 3) for w in best]
        scores = np.asarray(found["scores"])[sample, : len(best)]
        np.testing.assert_allclose(scores, [penalised[w] for w in best], rtol=1e-12)
        assert (np.asarray(found["scores"])[sample, len(best) :] < -1e8).all()


@BOTH
@pytest.mark.parametrize("beams", [1, 2, 4])
def test_beam_search_is_the_algorithm_word_by_word(beams, which):
    """Against plain lists, one sample at a time: also shows that a batch gives what its samples give."""
    step, state, start, score = language(which, seed=beams)
    found = SEARCHES[which].beam_search(step, state, start, 6, EOS, PAD, beams, alpha=0.6)
    for sample in range(3):
        live, finished = [((), 0.0)], []
        for length in range(1, 7):
            longer = [((*w, k), score(sample, (*w, k))) for w, _ in live for k in range(5)]
            longer = sorted(longer, key=lambda pair: -pair[1])[: 2 * beams]
            finished += [(w, s / ((5 + length) / 6) ** 0.6) for w, s in longer if w[-1] == EOS]
            finished = sorted(finished, key=lambda pair: -pair[1])[:beams]
            live = [pair for pair in longer if pair[0][-1] != EOS][:beams]
        assert np.asarray(found["words"])[sample].tolist() == [padded(w, 6) for w, _ in finished]
        np.testing.assert_allclose(np.asarray(found["scores"])[sample], [s for _, s in finished], rtol=1e-12)


@BOTH
def test_search_stops_when_nothing_can_improve(which):
    calls = []

    def step(words, position, state):
        calls.append(position)
        ends = np.full((len(words), 5), -20.0)
        ends[:, EOS] = -1e-6
        return TENSOR[which](ends), state

    start = TENSOR[which](np.full(3, EOS))
    assert np.asarray(SEARCHES[which].greedy_search(step, {}, start, 50, EOS, PAD)["words"])[0, 0, :2].tolist() == [
        EOS,
        PAD,
    ]
    assert calls == [0]
    calls.clear()
    SEARCHES[which].beam_search(step, {}, start, 50, EOS, PAD, beams=2, alpha=0.0)
    assert calls == [0, 1]


@BOTH
def test_equal_candidates_come_in_their_order(which):
    def step(words, position, state):
        return TENSOR[which](np.full((len(words), 4), -math.log(4))), state

    found = SEARCHES[which].beam_search(step, {}, TENSOR[which](np.full(1, 0)), 2, 3, PAD, beams=2, alpha=0.0)
    assert np.asarray(found["words"]).tolist() == [[[3, PAD], [0, 3]]]


@BOTH
def test_what_never_ends_is_returned_as_it_is(which):
    def step(words, position, state):
        return TENSOR[which](np.tile([-1.0, -2.0, -3.0, -1e9], (len(words), 1))), state

    found = SEARCHES[which].beam_search(step, {}, TENSOR[which](np.full(2, 0)), 3, 3, PAD, beams=2, alpha=1.0)
    assert np.asarray(found["words"])[0].tolist() == [[0, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(np.asarray(found["scores"])[1], [-3 / (8 / 6), -4 / (8 / 6)], rtol=1e-12)
    for options in ({"beams": 0}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match="must be 1 or more"):
            SEARCHES[which].beam_search(step, {}, TENSOR[which](np.full(2, 0)), 3, 3, PAD, **options)
