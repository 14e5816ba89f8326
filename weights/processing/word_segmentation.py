"""Chinese word segmentation without a network: matching, the best path through a dictionary, and a hidden Markov model.

The algorithms and the tables are those of fxsjy/jieba; tables are read as data from the installed package. Also here:
tags of characters, features for a random field, and how segmentations are compared.
"""

import ast
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weights.checkpoints import package_file
from weights.processing.text import TextError, check_sentence, read_text

__all__ = [
    "Dictionary",
    "HiddenMarkov",
    "Scores",
    "bimm",
    "bmes",
    "bmm",
    "compare",
    "dag_unigram",
    "feature_input",
    "feature_vocabulary",
    "features",
    "fmm",
    "hmm_viterbi",
    "jieba_cut",
    "open_dictionary",
    "open_hmm",
    "viterbi",
    "words_of",
]

PACKAGE = "jieba==0.42.1"
NEVER = -3.14e100  # log probability of what does not occur
STATES = "BMES"  # beginning, middle, end of a word; a single-character word
BEFORE = {"B": "ES", "M": "MB", "S": "SE", "E": "BM"}
HAN = re.compile("([\u4e00-\u9fd5]+)")
NUMBERS = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")
TEXT = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+)")
SPACE = re.compile(r"(\r\n|\s)")
LATIN = re.compile("[a-zA-Z0-9]")


@dataclass(frozen=True)
class Dictionary:
    """Words with their frequencies.

    Args:
        frequency: by word; prefixes of words are included with 0.
        total: sum of all frequencies.
        longest: letters of the longest word.
    """

    frequency: Mapping[str, int]
    total: int
    longest: int

    def __contains__(self, word: str) -> bool:
        return self.frequency.get(word, 0) > 0


@dataclass(frozen=True)
class HiddenMarkov:
    """Log probabilities of the states B, M, E, S: at the start, from state to state, and of a letter in a state."""

    start: Mapping[str, float]
    transition: Mapping[str, Mapping[str, float]]
    emission: Mapping[str, Mapping[str, float]]


def open_dictionary(path: str | Path | None = None) -> Dictionary:
    """A dictionary: one word, its frequency, and perhaps its kind per line.

    Args:
        path: the file; jieba's own by default.

    Raises:
        TextError: if the file cannot be read, or a line is not a word and a number; it names the line.
        CheckpointError: if the package is not installed.
    """
    path = Path(path) if path is not None else package_file(PACKAGE, "jieba/dict.txt")
    frequency: dict[str, int] = {}
    total = longest = 0
    for number, line in enumerate(read_text(path, "a dictionary").split("\n"), 1):
        parts = line.strip().split(" ")
        if parts == [""]:
            continue
        word = parts[0]
        if len(parts) not in (2, 3) or not (parts[1].isascii() and parts[1].isdigit()) or len(parts[1]) > 12:
            raise TextError(f"{path}: line {number}: {line[:40]!r}; a word, a space and its frequency were expected")
        total += int(parts[1])
        longest = max(longest, len(word))
        frequency[word] = int(parts[1])
        for end in range(1, len(word)):
            frequency.setdefault(word[:end], 0)
    if not total:
        raise TextError(f"{path}: no words in it; a dictionary is needed")
    return Dictionary(frequency, total, longest)


def open_hmm(folder: str | Path | None = None) -> HiddenMarkov:
    """The tables of a hidden Markov model, from the files ``prob_start.py``, ``prob_trans.py``, ``prob_emit.py``.

    The files are read, not run: ``P=`` and a table of plain values is all that may be in them.

    Args:
        folder: of the files; jieba's own by default.

    Raises:
        TextError: if a file cannot be read, holds anything else, or lacks a state.
        CheckpointError: if the package is not installed.
    """
    folder = Path(folder) if folder is not None else package_file(PACKAGE, "jieba/finalseg/prob_start.py").parent
    start, transition, emission = (_table(folder / f"prob_{name}.py") for name in ("start", "trans", "emit"))
    if not _numbers(start):
        raise TextError(f"{folder / 'prob_start.py'}: a log probability of each of B, M, E, S was expected")
    for path, rows in (("prob_trans.py", transition), ("prob_emit.py", emission)):
        if set(rows) != set(STATES) or not all(isinstance(row, dict) and _numbers(row, False) for row in rows.values()):
            raise TextError(f"{folder / path}: a table of log probabilities for each of B, M, E, S was expected")
    return HiddenMarkov(start, transition, emission)


def _table(path: Path) -> dict:
    what = "a table of a hidden Markov model"
    try:
        tree = ast.parse(read_text(path, what))
        (assignment,) = (node for node in tree.body if not isinstance(node, ast.ImportFrom))
        table = ast.literal_eval(assignment.value)
    except TextError:
        raise
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        raise TextError(f"{path}: not 'P=' and a table of plain values; {what} is needed") from None
    if not isinstance(table, dict):
        raise TextError(f"{path}: not a table; {what} is needed")
    return table


def _numbers(row: Mapping, complete: bool = True) -> bool:
    """Whether all values are numbers, and the keys the four states."""
    known = not complete or set(row) == set(STATES)
    return known and all(isinstance(key, str) and type(value) in (int, float) for key, value in row.items())


def fmm(text: str, dictionary: Dictionary, longest: int | None = None) -> list[str]:
    """Forward maximum matching: always the longest word that begins here; a single letter if there is none.

    Args:
        text: the text.
        dictionary: the words.
        longest: largest number of letters tried; those of the longest word by default.
    """
    longest, words = longest or dictionary.longest, []
    while text:
        size = next((n for n in range(min(longest, len(text)), 1, -1) if text[:n] in dictionary), 1)
        words.append(text[:size])
        text = text[size:]
    return words


def bmm(text: str, dictionary: Dictionary, longest: int | None = None) -> list[str]:
    """Backward maximum matching: from the end on, always the longest word that ends here.

    Args: those of :func:`fmm`.
    """
    longest, words = longest or dictionary.longest, []
    while text:
        size = next((n for n in range(min(longest, len(text)), 1, -1) if text[-n:] in dictionary), 1)
        words.append(text[-size:])
        text = text[:-size]
    return words[::-1]


def bimm(text: str, dictionary: Dictionary, longest: int | None = None) -> list[str]:
    """The better of both: fewer words, then fewer words of one letter, then the backward one.

    Args: those of :func:`fmm`.
    """
    forward, backward = fmm(text, dictionary, longest), bmm(text, dictionary, longest)
    return min((backward, forward), key=lambda words: (len(words), sum(len(word) == 1 for word in words)))


def _best_path(text: str, dictionary: Dictionary) -> list[int]:
    """For every letter the last letter of the word that begins there on the most probable path to the end."""
    frequency, log_total = dictionary.frequency, math.log(dictionary.total)
    best = [(0.0, 0)] * (len(text) + 1)
    for i in range(len(text) - 1, -1, -1):
        ends, end = [], i
        while end < len(text) and text[i : end + 1] in frequency:
            if frequency[text[i : end + 1]]:
                ends.append(end)
            end += 1
        best[i] = max(
            (math.log(frequency.get(text[i : j + 1]) or 1) - log_total + best[j + 1][0], j) for j in ends or [i]
        )
    return [end for _, end in best[:-1]]


def dag_unigram(text: str, dictionary: Dictionary) -> list[str]:
    """The words whose frequencies have the largest product; ties go to the longer word first.

    Args:
        text: the text.
        dictionary: the words; a letter that is not a word counts as one of frequency 1.
    """
    ends, words, i = _best_path(text, dictionary), [], 0
    while i < len(text):
        words.append(text[i : ends[i] + 1])
        i = ends[i] + 1
    return words


def _states(text: str, hmm: HiddenMarkov) -> str:
    """The most probable states of the letters; of equal ones the state whose letter comes later in the alphabet."""
    score = {state: hmm.start[state] + hmm.emission[state].get(text[0], NEVER) for state in STATES}
    path = {state: state for state in STATES}
    for letter in text[1:]:
        best = {
            state: max((score[old] + hmm.transition[old].get(state, NEVER) + emitted, old) for old in BEFORE[state])
            for state in STATES
            for emitted in [hmm.emission[state].get(letter, NEVER)]
        }
        path = {state: path[old] + state for state, (_, old) in best.items()}
        score = {state: value for state, (value, _) in best.items()}
    return path[max((score[state], state) for state in "ES")[1]]


def hmm_viterbi(text: str, hmm: HiddenMarkov) -> list[str]:
    """The words by the most probable states of the Chinese characters; other text is split into numbers and the rest.

    Args:
        text: the text.
        hmm: the model.
    """
    words = []
    for part in HAN.split(text):
        if HAN.match(part):
            words += words_of(part, _states(part, hmm))
        else:
            words += [piece for piece in NUMBERS.split(part) if piece]
    return words


def jieba_cut(text: str, dictionary: Dictionary, hmm: HiddenMarkov | None = None) -> list[str]:
    """jieba's default: the best path, and the hidden Markov model where it leaves single letters in a row.

    Args:
        text: the text.
        dictionary: the words.
        hmm: the model; None: without it, joining only Latin letters and digits.
    """
    words = []
    for part in TEXT.split(text):
        if not TEXT.match(part):
            for piece in SPACE.split(part):
                words += [piece] if SPACE.match(piece) else list(piece)
            continue
        singles = ""
        for word in [*dag_unigram(part, dictionary), ""]:  # "" ends the last row of singles
            if len(word) == 1 and (hmm is not None or LATIN.match(word)):
                singles += word
                continue
            if hmm is None:
                words += [singles] if singles else []
            else:
                words += hmm_viterbi(singles, hmm) if len(singles) > 1 and singles not in dictionary else list(singles)
            words += [word] if word else []
            singles = ""
    return words


def bmes(words: Iterable[str]) -> str:
    """The tags of the characters of words: B, M, E at the beginning, in the middle, at the end; S for one alone."""
    return "".join("S" if len(word) == 1 else f"B{'M' * (len(word) - 2)}E" for word in words)


def words_of(text: str, tags: Sequence[str]) -> list[str]:
    """The words of a text by its tags; a word ends at E or S, before B or S, and with the text.

    Raises:
        ValueError: if the numbers differ.
    """
    if len(text) != len(tags):
        raise ValueError(f"{len(tags)} tags for a text of {len(text)} characters; one each was expected")
    words = []
    for i, (letter, tag) in enumerate(zip(text, tags, strict=True)):
        if i and tag in "ME" and tags[i - 1] in "BM":
            words[-1] += letter
        else:
            words.append(letter)
    return words


@dataclass(frozen=True)
class Scores:
    """Scores of a segmentation, each in [0, 1]; ``oov_recall`` is None if no word was new."""

    precision: float
    recall: float
    f1: float
    oov_recall: float | None


def compare(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]], known=frozenset()) -> Scores:
    """Compare segmentations of texts: a word counts if both its ends are right.

    Args:
        expected, found: words of every text.
        known: words that were seen before; the others are new ("out of vocabulary").

    Raises:
        ValueError: if the texts differ.
    """
    if ["".join(words) for words in expected] != ["".join(words) for words in found]:
        raise ValueError("expected and found are not segmentations of the same texts")
    right = given = wanted = new = new_right = 0
    for ours, theirs in zip(found, expected, strict=True):
        spans = set(_spans(ours))
        hits = [span in spans for span in _spans(theirs)]
        news = [word not in known for word in theirs]
        right, given, wanted = right + sum(hits), given + len(ours), wanted + len(theirs)
        new, new_right = new + sum(news), new_right + sum(hit and n for hit, n in zip(hits, news, strict=True))
    precision, recall = right / max(given, 1), right / max(wanted, 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Scores(precision, recall, f1, new_right / new if new else None)


def _spans(words: Sequence[str]) -> list[tuple[int, int]]:
    ends = np.cumsum([len(word) for word in words]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _kind(letter: str) -> str:
    """Digit, Latin letter, Chinese character, border of the text, other."""
    if letter in ("<", ">"):
        return letter
    return "D" if letter.isdecimal() else "L" if LATIN.match(letter) else "H" if HAN.match(letter) else "O"


def features(text: str) -> list[list[str]]:
    """The features of every character: itself and two neighbours on each side, three pairs, and kinds of character.

    C-2, C-1, C0, C1, C2, C-1 C0, C0 C1, C-1 C1, and the kinds of C-1, C0, C1 together.
    """
    letters = ["<", "<", *text, ">", ">"]
    found = []
    for i in range(2, len(letters) - 2):
        a, b, c, d, e = letters[i - 2 : i + 3]
        parts = (a, b, c, d, e, b + c, c + d, b + d, "".join(map(_kind, (b, c, d))))
        found.append([f"{number}:{part}" for number, part in enumerate(parts)])
    return found


def feature_vocabulary(texts: Iterable[str], least: int = 1) -> dict[str, int]:
    """Indices of the features, from 1 in the order of their first occurrence; 0 means no feature.

    Args:
        texts: texts.
        least: how often a feature must occur.
    """
    counts: dict[str, int] = {}
    for text in texts:
        for row in features(text):
            for feature in row:
                counts[feature] = counts.get(feature, 0) + 1
    return {name: i for i, name in enumerate((name for name, n in counts.items() if n >= least), 1)}


def feature_input(texts: str | Sequence[str], rows: Mapping[str, int] | int, length: int) -> dict[str, np.ndarray]:
    """Texts as one batch for a random field over features.

    Args:
        texts: texts; one alone is a batch of one.
        rows: numbers of the features, an unknown one is 0; or the number of rows of the table, to which features are
            spread by their hash.
        length: characters of every row.

    Returns:
        int64 arrays: ``"features"`` (N, length, 9); ``"mask"`` (N, length), 1 = character.

    Raises:
        TextError: if there is no text, or one is empty or too long.
    """
    texts = check_texts(texts, length)
    found = {"features": np.zeros((len(texts), length, 9), np.int64), "mask": np.zeros((len(texts), length), np.int64)}
    for i, text in enumerate(texts):
        for t, row in enumerate(features(text)):
            hashed = isinstance(rows, int)
            ids = [1 + zlib.crc32(name.encode()) % (rows - 1) if hashed else rows.get(name, 0) for name in row]
            found["features"][i, t] = ids
        found["mask"][i, : len(text)] = 1
    return found


def check_texts(texts: str | Sequence[str], length: int) -> list[str]:
    """Texts as a list, each of them not empty and not too long."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise TextError("no text was given; one at least is needed")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"text {i}: {text!r} is no text; a string was expected")
        check_sentence(f"text {i}", text)
        if len(text) > length:
            raise TextError(f"text {i} has {len(text)} characters, more than {length}; give a shorter one")
    return texts


def viterbi(emissions, start, end, transitions) -> tuple[np.ndarray, float]:
    """The best tags of one text and their score; ties go to the lower tags, from the end on.

    Args:
        emissions: (T, K) float.
        start, end: (K,).
        transitions: (K, K), from row to column.
    """
    score, steps = np.asarray(start + emissions[0], np.float64), []
    for row in emissions[1:]:
        moves = score[:, None] + transitions
        steps.append(moves.argmax(0))
        score = moves.max(0) + row
    score = score + end
    tags = [int(score.argmax())]
    for step in reversed(steps):
        tags.append(int(step[tags[-1]]))
    return np.array(tags[::-1], np.int64), float(score.max())
