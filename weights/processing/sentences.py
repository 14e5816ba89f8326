"""Sentences as the input of FastBERT and of TextCNN: words, their indices, and a table of their vectors.

Nothing here draws at random: random numbers in [0, 1) are passed in.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from weights.processing.text import TextError, check_sentence, sentence_input

__all__ = ["segment_input", "split", "vocabulary", "word_input", "word_table"]

RANGE = 0.25  # of the vector of a word without one
OTHERS = re.compile(r"[^A-Za-z0-9(),!?'`]")
PARTS = re.compile(r"('s|'ve|n't|'re|'d|'ll)")
SIGNS = re.compile(r"([(),!?])")


def segment_input(tokenizer, sentences, max_length: int = 512, vocab_size: int | None = None) -> dict[str, np.ndarray]:
    """Sentences, or pairs of sentences, as one batch for FastBERT, whose segments also tell where the padding is.

    Args:
        tokenizer, sentences, max_length, vocab_size: as for :func:`weights.processing.text.sentence_input`.

    Returns:
        int64 arrays (N, T): ``"input_ids"``; ``"segment_ids"``, 0 = padding, 1 = first text, 2 = second text.

    Raises:
        TextError, ValueError: as :func:`weights.processing.text.sentence_input`.
    """
    found = sentence_input(tokenizer, sentences, max_length, vocab_size)
    segments = (1 + found["token_type_ids"]) * found["attention_mask"]
    return {"input_ids": found["input_ids"], "segment_ids": segments}


def split(sentence: str) -> list[str]:
    """The words of an English sentence in lower case; contractions and ``( ) , ! ?`` are words, other signs are
    dropped.

    Source: yoonkim/CNN_sentence ``process_data.py``.
    """
    sentence = PARTS.sub(r" \1", OTHERS.sub(" ", sentence))
    return SIGNS.sub(r" \1 ", sentence).lower().split()


def vocabulary(sentences: Iterable[str], least: int = 1) -> dict[str, int]:
    """Indices of the words, from 1 in the order of their first occurrence; 0 is the padding.

    Args:
        sentences: texts.
        least: how often a word must occur.

    Raises:
        TextError: if no word is left.
    """
    counts: dict[str, int] = {}
    for sentence in sentences:
        for word in split(sentence):
            counts[word] = counts.get(word, 0) + 1
    words = [word for word, count in counts.items() if count >= least]
    if not words:
        raise TextError(f"no word occurs {least} times or more; more text is needed")
    return {word: i for i, word in enumerate(words, 1)}


def word_input(
    words: Mapping[str, int],
    sentences: str | Sequence[str],
    length: int | None = None,
    vocab_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Sentences as one batch. A word without a number is dropped, as in yoonkim/CNN_sentence.

    Args:
        words: see :func:`vocabulary`.
        sentences: texts; one alone is a batch of one.
        length: words of every row; the longest sentence's number by default.
        vocab_size: rows of the word embedding that the numbers have to fit.

    Returns:
        ``"input_ids"`` (N, length) int64, filled up with 0.

    Raises:
        TextError: if there is no sentence, one is empty, no text, without a known word, or too long, or the indices do
            not fit ``vocab_size``.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        raise TextError("no sentence was given; one at least is needed")
    if vocab_size is not None and max(words.values()) >= vocab_size:
        raise TextError(f"words up to {max(words.values())} do not fit the {vocab_size} rows of the weights")
    rows = []
    for i, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TextError(f"sentence {i}: {sentence!r} is no text; a string was expected")
        check_sentence(f"sentence {i}", sentence)
        rows.append([words[word] for word in split(sentence) if word in words])
        if not rows[-1]:
            raise TextError(f"sentence {i}: {sentence!r} has no known words; give some text of the vocabulary")
        if length is not None and len(rows[-1]) > length:
            raise TextError(f"sentence {i} has {len(rows[-1])} words, more than {length}; give a shorter one")
    ids = np.zeros((len(rows), length or max(map(len, rows))), np.int64)
    for row, numbers in zip(ids, rows, strict=True):
        row[: len(numbers)] = numbers
    return {"input_ids": ids}


def word_table(words: Mapping[str, int], vectors: Mapping[str, np.ndarray], random: np.ndarray) -> np.ndarray:
    """The word embedding of a vocabulary: known vectors, others uniform up to 0.25, and 0 for the padding.

    Args:
        words: see :func:`vocabulary`.
        vectors: (D,) by word, such as word2vec's.
        random: (1 + the largest number, D) in [0, 1).

    Raises:
        ValueError: if a shape does not fit.
    """
    table = np.asarray(2 * RANGE * np.asarray(random) - RANGE, np.float32)
    if table.ndim != 2 or len(table) != 1 + max(words.values()):
        raise ValueError(f"random of shape {table.shape} must have {1 + max(words.values())} rows")
    table[0] = 0
    for word, i in words.items():
        if word in vectors:
            vector = np.asarray(vectors[word], np.float32)
            if vector.shape != table[i].shape:
                raise ValueError(f"vectors[{word!r}] of shape {vector.shape} must have shape {table[i].shape}")
            table[i] = vector
    return table
