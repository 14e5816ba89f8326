"""Mirror notes: where the frameworks really differ, from the docstrings of both panels, and the lines concerned.

A comment that ends with ``mirror: some words of the note`` marks a line (or, on a line of its own, the line below); the
words occur in exactly one note of the file.
A note that is not marked leads to the lines that hold the names it gives in double backticks.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["PANELS", "TOPICS", "Note", "in_file", "notes", "stray"]

ROOT = Path(__file__).parents[2]
PANELS = ("tf_impl", "torch_impl")
HEADING = "Mirror notes:"
MARK = re.compile(r"#.*?\bmirror: (.+)$")
# the first topic whose words occur in a note is the note's
TOPICS = {
    "Padding": r"\bpads\b|padding|\"same\"",
    "Resize and sampling": r"interpolat|grid|nearest|F\.unfold|embedding_bag",
    "Batch statistics": r"variance|momentum|normalisation",
    "Recurrent gates": r"gates|one bias instead of two",
    "Ties": r"\btie\b|equal values|stable sort|difference of 0",
    "Masks and indices": r"\bmasked\b|blanks|\bindex\b|indices|window",
    "Attention": r"attention|softmax\(q|matrix products",
    "Export": r"ONNX|export|tf2onnx|symbolic",
    "Precision": r"precision",
    "Initial values": r"initializer",
    "Randomness": r"generator",
    "Training": r"gradient|tapes|Adam|freezes|optimiser|\btrain\b",
    "Control flow": r"\bloop\b",
    "Weights and names": r"state_dict|[Kk]ernel|Weights are|reserve the name|ties a decoder",
    "Layout": r"NHWC|NCHW|axis|axes|sizes of the maps",
    "Formulas": r"",
}


@dataclass(frozen=True)
class Note:
    """One mirror note.

    Args:
        file: path inside a panel.
        number: its place in the list of the file, from 0.
        text: its text, with "here" and "there" spelt out.
        topic: one of ``TOPICS``.
        listed: panel -> (first, last) line of the note in the docstring.
        places: panel -> lines of code where it happens.
        marked: whether every panel marks its places.
    """

    file: str
    number: int
    text: str
    topic: str
    listed: dict[str, tuple[int, int]] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)
    marked: bool = False


def _listed(source: str) -> list[tuple[str, int, int]]:
    """The notes of a docstring: text on one line, first and last line in the file."""
    docstring = ast.get_docstring(ast.parse(source), clean=False)
    if not docstring or HEADING not in docstring:
        return []
    lines = source.splitlines()
    found: list[list] = []
    for i in range(next(i for i, text in enumerate(lines) if text.strip() == HEADING) + 1, len(lines)):
        text = lines[i].removesuffix('"""')
        if text.startswith("- "):
            found.append([text[2:].strip(), i + 1, i + 1])
        elif found and text.startswith("  "):
            found[-1] = [f"{found[-1][0]} {text.strip()}", found[-1][1], i + 1]
        else:
            break
    return [tuple(note) for note in found]


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split()).casefold()


def _marks(source: str) -> Iterator[tuple[int, str]]:
    """(line, words) of every mark; one on a line of its own marks the line below it."""
    lines = source.splitlines()
    for number, text in enumerate(lines, start=1):
        match = MARK.search(text)
        while match and number < len(lines) and lines[number - 1].lstrip().startswith("#"):
            number += 1
        for words in match[1].split("; mirror: ") if match else ():
            yield number, words.strip()


def _named(source: str, text: str) -> list[int]:
    """Lines of code, not of the docstring, that hold a name which the note gives."""
    names = [name for name in re.findall(r"``([^`]+)``", text) if re.search(r"\w", name)]
    docstring = ast.parse(source).body[:1]
    first = docstring[0].end_lineno if docstring and isinstance(docstring[0], ast.Expr) else 0
    patterns = [re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)") for name in names]
    lines = list(enumerate(source.splitlines(), start=1))[first:]
    return [number for number, line in lines if any(pattern.search(line) for pattern in patterns)][:3]


def spelt_out(text: str) -> str:
    """A note of the TensorFlow panel, phrased for readers without the file."""
    if not re.search(r"\bhere\b", text):
        return text
    return re.sub(r"\bthere\b", "in PyTorch", re.sub(r"\bhere\b", "in TensorFlow", text))


def topic_of(text: str) -> str:
    return next(topic for topic, words in TOPICS.items() if re.search(words, text))


@cache
def sources(file: str) -> dict[str, str]:
    """panel -> source of a file."""
    return {panel: (ROOT / panel / file).read_text(encoding="utf-8") for panel in PANELS}


@cache
def in_file(file: str) -> tuple[Note, ...]:
    """The notes of a file, in their order; a note that one panel lacks is left to the tests."""
    both = sources(file)
    listed = {panel: _listed(source) for panel, source in both.items()}
    found = []
    for number, entries in enumerate(zip(*listed.values())):
        of = dict(zip(PANELS, entries))
        places, marked = {}, True
        for panel, (text, *_) in of.items():
            marks = [line for line, words in _marks(both[panel]) if _plain(words) in _plain(text)]
            places[panel] = list(dict.fromkeys(marks)) or _named(both[panel], text)
            marked = marked and bool(marks)
        text = spelt_out(of["tf_impl"][0])
        lines = {panel: (first, last) for panel, (_, first, last) in of.items()}
        found.append(Note(file, number, text, topic_of(text), lines, places, marked))
    return tuple(found)


def stray(file: str) -> list[str]:
    """Marks of a file whose words are not in exactly one of its notes."""
    found = []
    for panel, source in sources(file).items():
        texts = [_plain(text) for text, *_ in _listed(source)]
        for number, words in _marks(source):
            count = sum(_plain(words) in text for text in texts)
            if count != 1:
                found.append(f"{panel}/{file}:{number}: {words!r} is in {count} notes of the docstring")
    return found


def files() -> list[str]:
    """All files that both panels have, except those that make packages."""
    paths = {
        panel: {path.relative_to(ROOT / panel).as_posix() for path in (ROOT / panel).rglob("*.py")} for panel in PANELS
    }
    return sorted(file for file in paths["tf_impl"] & paths["torch_impl"] if not file.endswith("__init__.py"))


def notes() -> list[Note]:
    """Every note of the repository, by topic, then by file."""
    found = [note for file in files() for note in in_file(file)]
    order = list(TOPICS)
    return sorted(found, key=lambda note: (order.index(note.topic), note.file, note.number))
