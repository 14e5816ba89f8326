"""Texts and files of words that every reader refuses, in one line that says what is wrong."""

import pytest

from parity_tests.text_files import gpt1_files, wordpiece_file
from weights.processing import bpe, lac, text
from weights.processing import word_segmentation as seg
from weights.processing.sentences import segment_input, vocabulary, word_input
from weights.processing.text import TextError

READERS = {
    "sentences": lambda folder, texts: text.sentence_input(wordpiece_file(folder), texts),
    "segments": lambda folder, texts: segment_input(wordpiece_file(folder), texts),
    "tokens": lambda folder, texts: bpe.token_input(bpe.open_gpt1(*gpt1_files(folder)), texts, 5),
    "words": lambda folder, texts: word_input(vocabulary(["he is here"]), texts),
    "features": lambda folder, texts: seg.feature_input(texts, 9, 4),
    "characters": lambda folder, texts: lac.character_input({"OOV": 1}, texts, 4),
}
EVERY = [
    ([], "no (sentence|text) was given"),
    ("", "(sentence|text) 0 is empty"),
    (["he", " \t\n"], "(sentence|text) 1 is empty"),
    ([5], "(sentence|text) 0: 5 is no text"),
    (["he", None], "(sentence|text) 1: None is no text"),
    ([b"he"], "(sentence|text) 0: b'he' is no text"),
    (["\ud83e"], "half of a surrogate pair"),
]
OWN = [
    *((reader, "\u200b", "sentence 0: .* has no words") for reader in ("sentences", "segments", "tokens")),
    *((reader, ["\x00\x01"], "sentence 0: .* has no words") for reader in ("sentences", "segments")),
    *((reader, [("he", "\u200b")], "sentence 0: .* has no words") for reader in ("sentences", "segments")),
    *((reader, [("he", "")], "sentence 0 is empty") for reader in ("sentences", "segments")),
    *((reader, [("he", "he", "he")], "0: 3 texts; a string or a pair") for reader in ("sentences", "segments")),
    ("tokens", [("he", "he")], "sentence 0: .* is no text"),
    ("tokens", ["he " * 6], "sentence 0 has 6 tokens, and the model 5 positions"),
    ("words", "中文", "sentence 0: '中文' has no known words"),
    ("words", "unseen words", "sentence 0: 'unseen words' has no known words"),
    *((reader, "我" * 5, "text 0 has 5 characters, more than 4") for reader in ("features", "characters")),
]


@pytest.mark.parametrize(
    ("reader", "texts", "message"), [*((reader, *case) for reader in READERS for case in EVERY), *OWN]
)
def test_bad_text_is_refused(reader, texts, message, tmp_path):
    with pytest.raises(TextError, match=message) as error:
        READERS[reader](tmp_path, texts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [text.sentence_input, segment_input])
def test_vocabulary_must_fit_the_weights(read, tmp_path):
    assert read(wordpiece_file(tmp_path), "he", vocab_size=13)
    with pytest.raises(TextError, match="13 tokens do not fit the 12 words of the weights"):
        read(wordpiece_file(tmp_path), "he", vocab_size=12)


FILES = {
    "vocab.txt": text.open_tokenizer,
    "tokenizer.json": text.open_tokenizer,
    "word.dic": lambda path: lac.open_lexicon(path, 5),
    "dict.txt": seg.open_dictionary,
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"", r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nhe", r"lacks \[MASK\]"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\nhe\n", "has 'he' twice"),
        ("vocab.txt", b"[PAD]\n\xff\n", "not UTF-8"),
        ("tokenizer.json", b"", "not a tokenizer.json"),
        ("tokenizer.json", b"{}", "not a tokenizer.json"),
        ("tokenizer.json", b"[" * 10000, "not a tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "not a tokenizer.json"),
        ("word.dic", b"", "no words in it"),
        ("word.dic", b"0\t\xff\n", "not UTF-8"),
        ("word.dic", b"0\ta\nb\n", "line 2: 'b'; a number, a tab and a word"),
        ("word.dic", b"0\ta\n-1\tb\n", "line 2: '-1"),
        ("word.dic", b"0\ta\n1\t\n", "line 2"),
        ("word.dic", b"0\ta\n0\tb\n", "line 2: 'b' or its number 0 is there twice"),
        ("word.dic", b"0\ta\n1\ta\n", "line 2: 'a' or its number 1 is there twice"),
        ("word.dic", b"0\ta\n5\tb\n", "line 2: number 5 does not fit the 5 rows of the weights"),
        ("dict.txt", b"", "no words in it"),
        ("dict.txt", b"\xff 3\n", "not UTF-8"),
        ("dict.txt", "词 3 n\n词\n".encode(), "line 2: '词'; a word, a space and its frequency"),
        ("dict.txt", "词 -3\n".encode(), "line 1: '词 -3'"),
        ("dict.txt", "词 x\n".encode(), "line 1: '词 x'"),
        ("dict.txt", "词 ３\n".encode(), "line 1"),
        ("dict.txt", "词 3 n x\n".encode(), "line 1"),
        ("dict.txt", "词 99999999999999\n".encode(), "line 1"),
        ("dict.txt", "词 0\n".encode(), "no words in it"),
    ],
)
def test_bad_files_are_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TextError, match=message) as error:
        FILES[name](path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


GOOD = {
    "start": "P={'B': -1.0, 'E': -2, 'M': -3.0, 'S': -4.0}",
    "trans": "P={'B': {'E': -1.0}, 'E': {}, 'M': {}, 'S': {'S': -1.0}}",
    "emit": "from __future__ import unicode_literals\nP={'B': {'x': -1.0}, 'E': {}, 'M': {}, 'S': {}}",
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("start", "import os\nos.system('true')", "not 'P=' and a table"),
        ("start", "P={'B': __import__('os')}", "not 'P=' and a table"),
        ("start", "P={'B': -1.0", "not 'P=' and a table"),
        ("start", "P=" + "(" * 5000, "not 'P=' and a table"),
        ("start", "", "not 'P=' and a table"),
        ("start", "P=[1]", "not a table"),
        ("start", "P={'B': -1.0}", "of each of B, M, E, S"),
        ("start", "P={'B': '1', 'E': 0, 'M': 0, 'S': 0}", "of each of B, M, E, S"),
        ("trans", "P={'B': 1, 'E': {}, 'M': {}, 'S': {}}", "for each of B, M, E, S"),
        ("emit", "P={'B': {}}", "for each of B, M, E, S"),
        ("emit", "P={'B': {'x': None}, 'E': {}, 'M': {}, 'S': {}}", "for each of B, M, E, S"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, content, message):
    for other, good in GOOD.items():
        (tmp_path / f"prob_{other}.py").write_text(good)
    assert seg.hmm_viterbi("a1 b", seg.open_hmm(tmp_path)) == ["a1", " ", "b"]
    (tmp_path / f"prob_{name}.py").write_text(content)
    with pytest.raises(TextError, match=message) as error:
        seg.open_hmm(tmp_path)
    assert "\n" not in str(error.value) and f"prob_{name}.py" in str(error.value)
