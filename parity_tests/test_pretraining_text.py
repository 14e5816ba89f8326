"""Masked words and pairs of sentences, the text that BERT is trained on."""

import numpy as np
import pytest

from weights.processing import text
from weights.processing.text import TextError


def rows(count, length, words=200):
    """Ids from 5 on between [CLS] and [SEP]; every row is one token longer than the one before."""
    rng = np.random.default_rng(3)
    found = np.zeros((count, length + count - 1), np.int64)
    for i, row in enumerate(found):
        row[: length + i] = [2, *rng.integers(5, words, length + i - 2), 3]
    return found


WORDS = [*text.SPECIAL, *(f"{'##' if i % 3 == 0 else ''}w{i}" for i in range(195))]


def test_masked_words_are_those_of_the_given_numbers():
    ids = np.array([[2, 10, 11, 12, 13, 14, 15, 16, 17, 3, 0, 0]])
    random = np.full((3, 1, 12), 0.5)
    random[0, 0] = np.linspace(1, 0.1, 12)  # the last words first
    random[1, 0, 5:9] = [0.8999, 0.9, 0.7999, 0.8]
    random[2, 0, 6] = 0.123
    found = text.mask_words(ids, WORDS, random, share=0.4)
    hidden = ids.copy()
    hidden[0, 6], hidden[0, 7] = int(0.123 * 200), WORDS.index("[MASK]")  # 5 and 8 stay as they are
    np.testing.assert_array_equal(found["input_ids"], hidden)
    np.testing.assert_array_equal(found["labels"], [[-100] * 5 + [14, 15, 16, 17] + [-100] * 3])
    assert ids[0, 7] == 16, "the input is not changed"


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"), [(3, 20, 1), (10, 20, 2), (17, 20, 3), (128, 20, 19), (134, 20, 20), (512, 76, 76)]
)
def test_number_of_masked_words(tokens, limit, expected):
    ids = rows(1, tokens)
    random = np.random.default_rng(tokens).random((3, *ids.shape))
    for whole_words in (False, True):
        labels = text.mask_words(ids, WORDS, random, max_predictions=limit, whole_words=whole_words)["labels"]
        assert (labels >= 0).sum() == expected


def test_shares_of_masked_kept_and_other_words():
    """Evenly spread numbers give the proportions exactly, up to one in the rounding."""
    ids = np.full((100, 102), 7)
    ids[:, 0], ids[:, -1] = 2, 3
    random = np.random.default_rng(0).random((3, 100, 102))
    random[1] = np.random.default_rng(1).permutation(np.linspace(0, 1, 10200, endpoint=False)).reshape(100, 102)
    found = text.mask_words(ids, WORDS, random, share=1.0, max_predictions=1000)
    hidden, labels = found["input_ids"], found["labels"]
    inner = random[1][:, 1:-1]
    assert ((labels >= 0).sum(1) == 100).all()
    assert (hidden == 4).sum() - (random[2][:, 1:-1][inner >= 0.9] * 200 // 1 == 4).sum() == (inner < 0.8).sum()
    for low, high, share in ((0.0, 0.8, 0.8), (0.8, 0.9, 0.1), (0.9, 1.0, 0.1)):
        assert abs(((inner >= low) & (inner < high)).mean() - share) < 0.005
    assert (hidden[:, 1:-1][(inner >= 0.8) & (inner < 0.9)] == 7).all()
    assert len(np.unique(hidden[:, 1:-1][inner >= 0.9])) > 195, "any word may come in"


def test_special_tokens_are_never_masked():
    ids = rows(40, 12)
    for seed, whole_words in ((0, False), (1, True)):
        random = np.random.default_rng(seed).random((3, *ids.shape))
        found = text.mask_words(ids, WORDS, random, share=0.99, whole_words=whole_words)
        special = np.isin(ids, [0, 2, 3])
        assert (found["labels"][special] == -100).all()
        np.testing.assert_array_equal(found["input_ids"][special], ids[special])
        chosen = found["labels"] >= 0
        np.testing.assert_array_equal(found["labels"][chosen], ids[chosen])
        np.testing.assert_array_equal(found["input_ids"][~chosen], ids[~chosen])


def test_whole_words_are_masked_together():
    ids = rows(40, 30)
    random = np.random.default_rng(0).random((3, *ids.shape))
    chosen = text.mask_words(ids, WORDS, random, whole_words=True)["labels"] >= 0
    apart = text.mask_words(ids, WORDS, random)["labels"] >= 0
    inside = np.char.startswith(np.array(WORDS)[ids], "##")
    inside[:, 1] = False  # what follows [CLS] begins a word
    assert (chosen[:, 1:] == chosen[:, :-1])[inside[:, 1:]].all()
    assert not (apart[:, 1:] == apart[:, :-1])[inside[:, 1:]].all()
    wanted = np.maximum(1, np.round(0.15 * (ids > 0).sum(1)))
    assert (chosen.sum(1) <= wanted).all() and (apart.sum(1) == wanted).all()


def test_random_numbers_must_fit():
    with pytest.raises(ValueError, match=r"random of shape \(3, 2, 5\) must have shape \(3, 2, 6\)"):
        text.mask_words(rows(2, 5), WORDS, np.zeros((3, 2, 5)))


def documents(count=6):
    """Ids that tell document and place: 1000 * document + place."""
    rng = np.random.default_rng(5)
    found = []
    for number in range(count):
        ends = np.cumsum(rng.integers(1, 9, 12))
        found.append([list(range(1000 * number + a, 1000 * number + b)) for a, b in zip([0, *ends], ends)])
    return found


def test_pairs_follow_each_other_or_come_from_elsewhere():
    rng = np.random.default_rng(0)
    pairs = [p for _ in range(60) for p in text.next_sentence_pairs(documents(), iter(rng.random, None), 24)]
    labels = np.array([label for _, _, label in pairs])
    assert 0.4 < labels.mean() < 0.6
    lengths = np.array([len(first) + len(second) for first, second, _ in pairs])
    assert lengths.max() == 21 and 0.05 < (lengths < 12).mean() < 0.4
    for first, second, label in pairs:
        assert first and second
        assert len({i // 1000 for i in first}) == len({i // 1000 for i in second}) == 1
        assert (first[0] // 1000 != second[0] // 1000) == label
        for part in (first, second):
            assert part == list(range(part[0], part[-1] + 1)), "consecutive words"
        if not label:
            assert second[0] > first[-1]


def test_pairs_of_given_numbers():
    """Nothing short; after the first sentence, from the second document's second; cut at the front."""
    numbers = iter([0.5, 0.0, 0.4, 0.0, 0.5, 0.4, 0.6] + [0.9] * 20)
    found = text.next_sentence_pairs([[[1, 2, 3], [4, 5, 6]], [[7, 8], [9, 10, 11, 12]]], numbers, 9)
    assert found[0] == ([1, 2, 3], [10, 11, 12], 1)
    assert found[1][0] == [4, 5, 6], "what was replaced begins the next pair"


def test_too_long_a_pair_loses_tokens_of_its_longer_text():
    numbers = iter([0.5, 0.0, 0.0, 0.4, 0.6, 0.4, 0.6, 0.5, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9])
    found = text.next_sentence_pairs([[[1, 2, 3, 4, 5, 6, 7, 8]], [[9, 10]]], numbers, 9)
    assert found == [([3, 4, 5, 6], [9, 10], 1), ([9, 10], [1, 2, 3, 4], 1)]
    assert next(numbers, None) is None, "every number is used"


def test_pairs_as_a_batch():
    found = text.pack([([7, 8], [9], 0), ([5], [6], 1)], WORDS)
    np.testing.assert_array_equal(found["input_ids"], [[2, 7, 8, 3, 9, 3], [2, 5, 3, 6, 3, 0]])
    np.testing.assert_array_equal(found["attention_mask"], [[1] * 6, [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(found["token_type_ids"], [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]])
    np.testing.assert_array_equal(found["next_sentence_label"], [0, 1])


def test_pairs_need_documents_and_room():
    endless = iter(np.random.default_rng(0).random, None)
    with pytest.raises(TextError, match="1 documents"):
        text.next_sentence_pairs(documents(1), endless)
    for empty in ([[[1]], []], [[[1]], [[]]]):
        with pytest.raises(TextError, match="is empty"):
            text.next_sentence_pairs(empty, endless)
    with pytest.raises(ValueError, match="max_length=4 must be 5 or more"):
        text.next_sentence_pairs(documents(), endless, 4)
