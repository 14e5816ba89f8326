"""LAC, the tagger of words that ships inside jieba: its files of weights, its lexicon, and how its tags are read."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weights.processing.text import TextError, read_text
from weights.processing.word_segmentation import check_texts

__all__ = ["character_input", "open_lexicon", "open_tensor", "open_tensors", "tagged_words"]

FLOAT32 = 5  # Paddle's number of the type
MAX_FILE = 1_000_000_000  # bytes of a file of weights
MOST_AXES = 8
UNKNOWN = "OOV"  # stands for characters that are not in the lexicon


def open_tensors(folder: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a PaddlePaddle folder, one file each, by file name.

    Raises:
        TextError: if the folder cannot be read, is empty, or a file is damaged.
    """
    folder = Path(folder)
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise TextError(f"{folder}: cannot be read ({error.strerror}); a folder of weights is needed") from None
    if not paths:
        raise TextError(f"{folder}: no files in it; a folder of weights is needed")
    return {path.name: open_tensor(path) for path in paths}


def open_tensor(path: str | Path) -> np.ndarray:
    """Read one PaddlePaddle tensor.

    The file: version (uint32), levels of detail (uint64, each a length and as many bytes), version (uint32), length of
    the description (int32), the description (a protocol buffer: type and axes), the values (little-endian).

    Raises:
        TextError: if the file cannot be read, or is not such a float32 tensor; it says what is wrong.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise TextError(f"{path}: more than {MAX_FILE:,} bytes; a tensor of PaddlePaddle's is smaller")
        data = path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror}); a tensor of PaddlePaddle's is needed") from None
    at = 0

    def take(size: int, what: str) -> bytes:
        nonlocal at
        if not 0 <= size <= len(data) - at:
            raise TextError(f"{path}: {what} of {size} bytes, but {len(data) - at} are left; fetch the file again")
        at += size
        return data[at - size : at]

    def number(form: str, what: str) -> int:
        return struct.unpack(form, take(struct.calcsize(form), what))[0]

    for what in ("the version", "the version of the tensor"):
        version = number("<I", what)
        if version:
            raise TextError(f"{path}: {what} is {version}, 0 was expected: not a tensor of PaddlePaddle's")
        if what == "the version":
            for _ in range(min(number("<Q", "the number of levels"), len(data))):
                take(number("<Q", "the length of a level"), "a level")
    shape = _described(path, take(number("<i", "the length of the description"), "the description"))
    size = 4 * int(np.prod(shape, dtype=object))
    if len(data) - at != size:
        raise TextError(f"{path}: {len(data) - at} bytes of values, {size} were expected for {shape}; fetch it again")
    values = np.frombuffer(take(size, "the values"), "<f4").astype(np.float32).reshape(shape)
    if not np.isfinite(values).all():
        raise TextError(f"{path}: some values are not finite; fetch the file again")
    return values


def _described(path: Path, description: bytes) -> tuple[int, ...]:
    """The shape in a description; fields 1 (type) and 2 (axes) are all there is."""
    fields: dict[int, list[int]] = {1: [], 2: []}
    rest = list(description[::-1])

    def varint() -> int:
        value = shift = 0
        while rest and shift < 64:
            byte = rest.pop()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
        raise TextError(f"{path}: the description breaks off: not a tensor of PaddlePaddle's")

    while rest:
        field, kind = divmod(varint(), 8)
        if field not in fields or kind != 0:
            raise TextError(f"{path}: the description has a field {field} of kind {kind}; type and axes were expected")
        fields[field].append(varint())
    if fields[1] != [FLOAT32]:
        raise TextError(f"{path}: values of type {fields[1]}; {FLOAT32} (float32) was expected")
    shape = tuple(fields[2])
    if not 1 <= len(shape) <= MOST_AXES or not all(0 < axis < 2**31 for axis in shape):
        raise TextError(f"{path}: the shape is {shape}; 1 to {MOST_AXES} positive lengths were expected")
    return shape


def open_lexicon(path: str | Path, size: int | None = None) -> dict[str, int]:
    """A lexicon: a number, a tab and a character (or the name of a tag) per line.

    Args:
        path: ``word.dic`` or ``tag.dic``.
        size: rows of the weights; the indices must be below.

    Returns:
        The numbers by character or tag.

    Raises:
        TextError: if the file cannot be read, a line is something else, something is there twice, or a number does not
            fit ``size``.
    """
    what = "a lexicon of LAC (word.dic, tag.dic)"
    found: dict[str, int] = {}
    taken = set()
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        if not line:
            continue
        index, tab, word = line.removesuffix("\r").partition("\t")
        if not tab or not (index.isascii() and index.isdigit()) or not word or len(index) > 9:
            raise TextError(f"{path}: line {number}: {line[:40]!r}; a number, a tab and a word were expected")
        if word in found or int(index) in taken:
            raise TextError(f"{path}: line {number}: {word!r} or its number {index} is there twice")
        if size is not None and int(index) >= size:
            raise TextError(f"{path}: line {number}: number {index} does not fit the {size} rows of the weights")
        found[word] = int(index)
        taken.add(int(index))
    if not found:
        raise TextError(f"{path}: no words in it; {what} is needed")
    return found


def character_input(
    lexicon: Mapping[str, int], texts: str | Sequence[str], length: int = 64, unknown: str = UNKNOWN
) -> dict[str, np.ndarray]:
    """Texts as one batch for a tagger of characters.

    Args:
        lexicon: numbers of the characters.
        texts: texts; one alone is a batch of one. White space at their ends is dropped.
        length: characters of every row.
        unknown: stands for characters that are not in the lexicon.

    Returns:
        int64 arrays (N, length): ``"input_ids"``; ``"mask"``, 1 = character, 0 = padding.

    Raises:
        TextError: if there is no text, one is empty or too long, or the lexicon has nothing for unknown characters.
    """
    if unknown not in lexicon:
        raise TextError(f"the lexicon lacks {unknown!r}, which stands for unknown characters; take the weights' own")
    texts = check_texts([texts] if isinstance(texts, str) else texts, 2**31)
    texts = check_texts([text.strip() for text in texts], length)
    found = {name: np.zeros((len(texts), length), np.int64) for name in ("input_ids", "mask")}
    for i, text in enumerate(texts):
        found["input_ids"][i, : len(text)] = [lexicon.get(letter, lexicon[unknown]) for letter in text]
        found["mask"][i, : len(text)] = 1
    return found


def tagged_words(text: str, tags: Sequence[str]) -> list[tuple[str, str]]:
    """Words with their kinds from the tags of characters, such as ``n-B``, ``n-I`` or ``O``.

    A word begins with ``-B``, and with an ``O`` after something else; its kind is that of its first character.

    Raises:
        ValueError: if the numbers differ.
    """
    if len(text) != len(tags):
        raise ValueError(f"{len(tags)} tags for a text of {len(text)} characters; one each was expected")
    words: list[tuple[str, str]] = []
    for i, (letter, tag) in enumerate(zip(text, tags, strict=True)):
        if not i or tag.endswith("-B") or (tag == "O" and tags[i - 1] != "O"):
            words.append((letter, tag.split("-")[0]))
        else:
            words[-1] = words[-1][0] + letter, words[-1][1]
    return words
