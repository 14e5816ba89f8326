"""Byte pair encoding of GPT-1 and GPT-2, texts as their input, and damaged files."""

import itertools
import json

import numpy as np
import pytest

from parity_tests.cases.nlp.gpt import SMALL_GPT
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch
from parity_tests.text_files import gpt1_files
from weights import catalog, checkpoints
from weights.processing import bpe, text
from weights.processing.text import TextError
from weights.seeded import seeded


@pytest.fixture(scope="module")
def gpt2_tokenizer():
    with skip_without_package():
        return bpe.open_gpt2(vocab_size=50257)


SPLIT = {
    "Hello world": [15496, 995],
    "hello world, it's 2026!": [31373, 995, 11, 340, 338, 1160, 2075, 0],
    "  two  spaces\n": [220, 734, 220, 9029, 198],
    "中文 naïve": [40792, 23877, 229, 41492],
    "<|endoftext|>": [50256],
}


@pytest.mark.parametrize("sentence", SPLIT, ids=ascii)
def test_bytes_of_gpt2(gpt2_tokenizer, sentence):
    assert gpt2_tokenizer.encode(sentence).ids == SPLIT[sentence]


def test_pairs_are_merged_by_rank(gpt2_tokenizer):
    """Against the algorithm itself: in every round all occurrences of the most frequent pair."""
    lines = checkpoints.package_file(bpe.PACKAGE, f"{bpe.FOLDER}/vocab.bpe").read_text(encoding="utf-8").split("\n")
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines[1:50001])}
    assert len(ranks) == 50_000 and gpt2_tokenizer.get_vocab_size() == 50_257
    rng = np.random.default_rng(0)
    for _ in range(200):
        word = "".join(rng.choice(list("aaeehiilnoorsttu"), rng.integers(1, 25)))
        pieces = list(word)
        while True:
            best = min(itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, 10**6), default=None)
            if best not in ranks:
                break
            i, merged = 0, []
            while i < len(pieces):
                hit = tuple(pieces[i : i + 2]) == best
                merged.append("".join(best) if hit else pieces[i])
                i += 2 if hit else 1
            pieces = merged
        assert gpt2_tokenizer.encode(word).tokens == pieces, word


@pytest.mark.parametrize(
    "sentence",
    ["we'll  see\t\r\n x²½Ⅷ 一二 ", "🤗🏽 e\u0301\u200d\ufffd\x00\x7f", "'S 're I'VE", "\u2028a\xa0b\u3000c"],
    ids=ascii,
)
def test_every_text_comes_back(gpt2_tokenizer, sentence):
    assert gpt2_tokenizer.decode(gpt2_tokenizer.encode(sentence).ids) == sentence


@pytest.fixture
def small(tmp_path):
    return gpt1_files(tmp_path)


def test_words_of_gpt1(small):
    tokenizer = bpe.open_gpt1(*small)
    found = tokenizer.encode("Hello, he\nhellé hé world 中").tokens
    assert found == [*("hello</w>", ",</w>", "he</w>", "he", "ll", "e</w>", "he</w>"), *"worl", "d</w>", "<unk>"]
    assert tokenizer.decode(tokenizer.encode("Hello, world").ids) == "hello , world"


def test_batch_of_texts(small):
    found = bpe.token_input(bpe.open_gpt1(*small), ["hello", "he he he"], 3)
    ids = bpe.open_gpt1(*small).get_vocab()
    hello, he = ids["hello</w>"], ids["he</w>"]
    np.testing.assert_array_equal(found["input_ids"], [[hello, 0, 0], [he, he, he]])
    np.testing.assert_array_equal(found["labels"], [[hello, -100, -100], [he, he, he]])
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


def test_padding_behind_a_text_changes_nothing(small):
    tokenizer = bpe.open_gpt1(*small)
    options = {**SMALL_GPT, "vocab_size": tokenizer.get_vocab_size()}
    panel = PyTorch(catalog.get("gpt1"), options)
    panel.load(seeded(panel.shapes(), panel.aliases()))
    batches = (bpe.token_input(tokenizer, texts)["input_ids"] for texts in (["hello"], ["hello", "he he he"]))
    alone, padded = (panel.outputs({"input_ids": ids})["logits"][0, 0] for ids in batches)
    np.testing.assert_allclose(padded, alone, rtol=0, atol=1e-14)


def test_choices_of_gpt1(small):
    tokenizer = bpe.open_gpt1(*small)
    size = tokenizer.get_vocab_size()
    found = bpe.choice_input(tokenizer, [("he", ["hello", "he hello"]), ("hello", ["he", "he"])], size + 3)
    he, hello = (tokenizer.get_vocab()[word] for word in ("he</w>", "hello</w>"))
    start, delimiter, classify = size, size + 1, size + 2
    np.testing.assert_array_equal(
        found["input_ids"],
        [
            [[start, he, delimiter, hello, classify, 0], [start, he, delimiter, he, hello, classify]],
            [[start, hello, delimiter, he, classify, 0]] * 2,
        ],
    )
    np.testing.assert_array_equal(found["mc_token_ids"], [[4, 5], [4, 4]])
    assert (found["labels"][0, 0, -1], found["labels"][0, 1, -1]) == (-100, classify)
    with pytest.raises(TextError, match=rf"{size} tokens and the 3 of the task do not fit the {size + 2}"):
        bpe.choice_input(tokenizer, [("he", ["he"])], size + 2)
    for texts, counts in (([], r"\[\]"), ([("he", [])], r"\[0\]"), ([("he", ["he"]), ("he", ["he"] * 2)], r"\[1, 2\]")):
        with pytest.raises(TextError, match=f"texts with {counts} continuations"):
            bpe.choice_input(tokenizer, texts, size + 3)
    with pytest.raises(TextError, match="text 0, continuation 1 is empty"):
        bpe.choice_input(tokenizer, [("he", ["he", ""])], size + 3)
    with pytest.raises(TextError, match="text 0, continuation 0 has 5 tokens, and the model 4 positions"):
        bpe.choice_input(tokenizer, [("he", ["he"])], size + 3, 4)


def changed(small, vocabulary=None, merges=None):
    for path, content in zip(small, (vocabulary, merges), strict=True):
        if content is not None:
            path.write_bytes(content)
    return small


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (b"", None, "not JSON"),
        (b"[" * 10000, None, "not JSON"),
        (b'{"a": 0', None, "not JSON"),
        (b"\xff", None, "not UTF-8"),
        (b"[1]", None, "not a table"),
        (b"{}", None, "not a table"),
        (b'{"a": "0"}', None, "not a table"),
        (b'{"a": true}', None, "not a table"),
        (b'{"a": 0, "b": 2}', None, "do not have the numbers 0 to 1"),
        (b'{"a": 0, "b": 0}', None, "do not have the numbers 0 to 1"),
        (b'{"a": 0, "b": 1}', None, "'l' is not in .* do not fit"),
        (None, b"", "no pairs in it"),
        (None, b"\xff\n", "not UTF-8"),
        (None, b"h e\nl\n", "line 2: 'l' is no pair"),
        (None, b"h e l\n", "line 1: 'h e l' is no pair"),
        (None, b"h  e\n", "line 1: 'h  e' is no pair"),
        (None, b"h e\nh e\n", "line 2: 'h e' is there twice"),
        (None, b"h e\nh x\n", "line 2: 'x' is not in"),
        (None, b"h o\n", "line 1: 'ho' is not in"),
        (None, b"h e\n", "no pair ends in </w>: not the merges of GPT-1"),
    ],
)
def test_bad_files_are_refused(small, vocabulary, merges, message):
    changed(small, vocabulary, merges)
    with pytest.raises(TextError, match=message) as error:
        bpe.open_gpt1(*small)
    assert "\n" not in str(error.value) and str(small[0].parent) in str(error.value)


def test_files_of_the_other_model_are_refused(small):
    with pytest.raises(TextError, match=r"<\|endoftext\|> is missing: no vocabulary of GPT-2"):
        bpe.open_gpt2(*small)
    ids = json.loads(small[0].read_text())
    changed(small, json.dumps({**ids, "<|endoftext|>": len(ids)}).encode())
    with pytest.raises(TextError, match="of the 256 bytes are missing"):
        bpe.open_gpt2(*small)
    changed(small, json.dumps({("<nun>" if word == "<unk>" else word): i for word, i in ids.items()}).encode())
    with pytest.raises(TextError, match="<unk> is missing: no vocabulary of GPT-1"):
        bpe.open_gpt1(*small)


def test_files_that_cannot_be_read(small, monkeypatch):
    with pytest.raises(TextError, match=r"cannot be read .* a vocabulary of GPT"):
        bpe.open_gpt1(small[0].parent / "none", small[1])
    with pytest.raises(TextError, match=r"cannot be read .* a list of merges"):
        bpe.open_gpt1(small[0], small[1].parent)
    with pytest.raises(TextError, match="24 tokens do not fit the 23 of the weights"):
        bpe.open_gpt1(*small, vocab_size=23)
    monkeypatch.setattr(text, "MAX_FILE", 10)
    with pytest.raises(TextError, match="more than 10 bytes"):
        bpe.open_gpt1(*small)
