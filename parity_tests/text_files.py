"""Small vocabularies in files."""

import json
from pathlib import Path

from weights.processing.text import SPECIAL

WORDPIECES = [*SPECIAL, "he", "##llo", "hello", "Hello", "e", "é", "world", "."]


def wordpiece_file(folder: Path, words: list[str] = WORDPIECES) -> Path:
    """The path of a vocabulary of BERT, one word a line."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def gpt1_files(folder: Path) -> tuple[Path, Path]:
    """GPT-1's files, small: letters with and without the end of a word, and a few merges."""
    letters = [letter + end for letter in "helowrd,é" for end in ("", "</w>")]
    pairs = [("l", "l"), ("h", "e"), ("ll", "o</w>"), ("he", "llo</w>"), ("h", "e</w>")]
    words = ["<unk>", *letters, *("".join(pair) for pair in pairs)]
    vocabulary, merges = folder / "encoder.json", folder / "vocab.bpe"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    return vocabulary, merges
