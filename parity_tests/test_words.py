"""Words of sentences: how they are cut, counted, numbered and given vectors."""

import numpy as np
import pytest

from weights.processing.sentences import split, vocabulary, word_input, word_table
from weights.processing.text import TextError


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


def test_vocabulary_needs_words():
    with pytest.raises(TextError, match="no word occurs 3 times or more"):
        vocabulary(TEXTS, least=3)
    with pytest.raises(TextError, match="no word occurs 1 times or more"):
        vocabulary([])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("a bad film", {"length": 2}, "sentence 0 has 3 words, more than 2"),
        ("a", {"vocab_size": 6}, "words up to 6 do not fit the 6 rows of the weights"),
    ],
)
def test_words_must_fit(texts, options, message):
    with pytest.raises(TextError, match=message):
        word_input(vocabulary(TEXTS), texts, **options)
