"""Sentences as the input of BERT, its two pre-training tasks made from text, and Google's files under our names.

Nothing here draws at random: random numbers in [0, 1) are passed in.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = [
    "TextError",
    "check_sentence",
    "from_google",
    "mask_words",
    "next_sentence_pairs",
    "open_tokenizer",
    "pack",
    "read_text",
    "sentence_input",
    "vocabulary",
]

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # letters; a longer word is unknown
MAX_FILE = 100_000_000  # bytes of a tokenizer file
IGNORED = -100  # label of a token that is not to be predicted


class TextError(ValueError):
    """A text or a tokenizer file is invalid; one line says which and why."""


def read_text(path: str | Path, what: str) -> str:
    """Read a UTF-8 text file, with its line ends unchanged.

    Args:
        path: the file.
        what: what it should be, for the message.

    Raises:
        TextError: if it is missing, cannot be read, is too large, or is not UTF-8.
    """
    path = Path(path)
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_FILE else None
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror}); {what} is needed") from None
    if content is None:
        raise TextError(f"{path}: more than {MAX_FILE:,} bytes; {what} is smaller")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise TextError(f"{path}: not UTF-8; {what} is") from None


def open_tokenizer(path: str | Path, lowercase: bool = True, vocab_size: int | None = None):
    """BERT's tokenizer: clean, split at white space, punctuation and Chinese characters, then WordPiece.

    Args:
        path: a ``tokenizer.json``, or a ``vocab.txt`` with one token per line.
        lowercase: for a ``vocab.txt``: lower case without accents (the "uncased" models).
        vocab_size: rows of the word embedding that the ids have to fit.

    Returns:
        A ``tokenizers.Tokenizer`` that neither pads nor truncates.

    Raises:
        TextError: if the file is missing, unreadable, damaged, lacks a special token, or has ids beyond ``vocab_size``.
    """
    path = Path(path)
    text = read_text(path, "a tokenizer.json or vocab.txt")
    tokenizer = _from_json(path, text) if path.suffix == ".json" else _from_words(path, text, lowercase)
    ids = tokenizer.get_vocab()
    missing = [token for token in SPECIAL if token not in ids]
    if missing:
        raise TextError(f"{path}: no vocabulary of BERT's: it lacks {', '.join(missing)}")
    if max(ids.values()) != len(ids) - 1:
        raise TextError(f"{path}: ids up to {max(ids.values())} for {len(ids)} tokens; a number each was expected")
    if vocab_size is not None and len(ids) > vocab_size:
        raise TextError(f"{path}: {len(ids)} tokens do not fit the {vocab_size} words of the weights; take their own")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    try:
        markers = tokenizer.encode("a").tokens
    except Exception as error:  # the library raises nothing more specific
        raise TextError(f"{path}: cannot split text ({_line(error)}); fetch it again") from None
    if (markers[0], markers[-1]) != (CLS, SEP):
        raise TextError(f"{path}: no tokenizer of BERT's: it does not put a text between {CLS} and {SEP}")
    return tokenizer


def _from_json(path: Path, text: str):
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise TextError(f"{path}: not a tokenizer.json ({_line(error)}); fetch it again") from None


def _from_words(path: Path, text: str, lowercase: bool):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = [word.removesuffix("\r") for word in text.removesuffix("\n").split("\n")]
    ids = {word: i for i, word in enumerate(words)}
    if len(ids) < len(words):
        twice = next(word for i, word in enumerate(words) if ids[word] != i)
        raise TextError(f"{path}: the vocabulary has {twice!r} twice; one token per line was expected")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SEP, ids.get(SEP, 0)), (CLS, ids.get(CLS, 0)))
    tokenizer.add_special_tokens([token for token in SPECIAL if token in ids])
    return tokenizer


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def vocabulary(tokenizer) -> list[str]:
    """The tokens of a tokenizer by their ids."""
    words = [UNKNOWN] * (1 + max(tokenizer.get_vocab().values()))
    for word, i in tokenizer.get_vocab().items():
        words[i] = word
    return words


def sentence_input(
    tokenizer,
    sentences: str | Sequence[str | tuple[str, str]],
    max_length: int = 512,
    vocab_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Sentences, or pairs of sentences, as one batch.

    Args:
        tokenizer: the path of a tokenizer file, or what :func:`open_tokenizer` returned.
        sentences: texts or pairs of texts; one text alone is a batch of one.
        max_length: longest row in tokens, the special ones included. Longer rows are truncated at the end, of a pair
            the longer text first. BERT has 512 positions; all-MiniLM-L6-v2 was trained on 256.
        vocab_size: of a path: see :func:`open_tokenizer`.

    Returns:
        int64 arrays (N, T), padded to the longest row: ``"input_ids"``, ``"attention_mask"`` (1 = token, 0 = padding),
        ``"token_type_ids"`` (1 = second text and the separator after it).

    Raises:
        TextError: if there is no text, a text is empty or no text at all, or the tokenizer cannot be read.
        ValueError: if ``max_length`` leaves no room for a word of every text.
    """
    if isinstance(tokenizer, (str, Path)):
        tokenizer = open_tokenizer(tokenizer, vocab_size=vocab_size)
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        raise TextError("no sentence was given; one at least is needed")
    for i, sentence in enumerate(sentences):
        check_sentence(f"sentence {i}", sentence)
    pairs = any(not isinstance(sentence, str) for sentence in sentences)
    if max_length < 3 + 2 * pairs:
        raise ValueError(
            f"max_length={max_length} must be {3 + 2 * pairs} or more: a word of each text between markers"
        )
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    try:
        rows = tokenizer.encode_batch([s if isinstance(s, str) else tuple(s) for s in sentences])
    finally:
        tokenizer.no_truncation()
        tokenizer.no_padding()
    for i, (row, sentence) in enumerate(zip(rows, sentences, strict=True)):
        found = {part for part in row.sequence_ids if part is not None}
        if len(found) < (1 if isinstance(sentence, str) else 2):
            raise TextError(f"sentence {i}: {sentence!r} has no words; give some text")
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
    }


def check_sentence(name: str, sentence) -> None:
    texts = [sentence] if isinstance(sentence, str) else sentence
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise TextError(f"{name}: {sentence!r} is no text; a string or a pair of strings was expected")
    if not isinstance(sentence, str) and len(texts) != 2:
        raise TextError(f"{name}: {len(texts)} texts; a string or a pair of strings was expected")
    for text in texts:
        if not text.strip():
            raise TextError(f"{name} is empty; give some text")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise TextError(f"{name}: {text!r} holds half of a surrogate pair; it was read with the wrong encoding")


def mask_words(
    input_ids: np.ndarray,
    words: Sequence[str],
    random: np.ndarray,
    share: float = 0.15,
    max_predictions: int = 20,
    whole_words: bool = False,
) -> dict[str, np.ndarray]:
    """Hide words that the model has to fill in: 80 % as [MASK], 10 % unchanged, 10 % as another word.

    Of a row of n tokens, min(max_predictions, max(1, round(share * n))) are chosen, [CLS] and [SEP] counted in n but
    never chosen.

    Args:
        input_ids: (N, T) int.
        words: the vocabulary, by id (:func:`vocabulary`).
        random: (3, N, T) in [0, 1): the order in which the words are tried, the treatment of each token (below 0.8
            masked, below 0.9 kept), and the word that replaces it.
        share: of the tokens that are chosen.
        max_predictions: per row; 20 for 128 tokens, 76 for 512.
        whole_words: choose or leave a word and its ``##`` continuations together. A word that is tried is skipped if
            it would exceed the number.

    Returns:
        ``"input_ids"`` (N, T) int64, the text with its gaps; ``"labels"`` (N, T) int64, the hidden words, elsewhere
        -100.

    Raises:
        ValueError: if the shape of ``random`` does not fit.

    Source: arXiv:1810.04805, section 3.1 and appendix A.1; google-research/bert ``create_pretraining_data.py``.
    """
    input_ids = np.asarray(input_ids, np.int64)
    if np.shape(random) != (3, *input_ids.shape):
        raise ValueError(f"random of shape {np.shape(random)} must have shape {(3, *input_ids.shape)}")
    pad, _, cls, sep, mask = (words.index(token) for token in SPECIAL)
    hidden, labels = input_ids.copy(), np.full_like(input_ids, IGNORED)
    for row, ids in enumerate(input_ids):
        groups: list[list[int]] = []
        for t, i in enumerate(ids):
            if i in (pad, cls, sep):
                continue
            if whole_words and groups and words[i].startswith("##"):
                groups[-1].append(t)
            else:
                groups.append([t])
        wanted = min(max_predictions, max(1, round(share * int((ids != pad).sum()))))
        order, action, other = (numbers[row] for numbers in random)
        chosen: list[int] = []
        for group in sorted(groups, key=lambda group: order[group[0]]):
            if len(chosen) + len(group) <= wanted:
                chosen += group
        labels[row, chosen] = ids[chosen]
        replaced = np.where(action < 0.9, ids, (other * len(words)).astype(np.int64))
        hidden[row, chosen] = np.where(action < 0.8, mask, replaced)[chosen]
    return {"input_ids": hidden, "labels": labels}


def next_sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    random: Iterator[float],
    max_length: int = 128,
    short: float = 0.1,
) -> list[tuple[list[int], list[int], int]]:
    """Pairs of texts of which the second follows the first, or is from another document.

    Sentences are gathered to about ``max_length`` tokens and split at a random sentence; in half of the cases the
    second part is replaced by text from elsewhere, and what was replaced is used again. Pairs that are too long are
    truncated, token by token, at a random end of the longer text.

    Args:
        documents: two at least; each a sequence of sentences, each of those a sequence of ids without special tokens.
        random: numbers in [0, 1), consumed in order; ``iter(rng.random, None)`` never ends.
        max_length: of a pair with [CLS] and two [SEP].
        short: share of the pairs that are made for a random shorter length.

    Returns:
        (first text, second text, label) per pair; label 0 = follows, 1 = is from elsewhere.

    Raises:
        TextError: if there are fewer than two documents, or a document or sentence is empty.
        ValueError: if ``max_length`` is below 5.

    Source: arXiv:1810.04805, appendix A.2; google-research/bert ``create_pretraining_data.py``.
    """
    if len(documents) < 2:
        raise TextError(f"{len(documents)} documents: a sentence from elsewhere needs two at least")
    if not all(len(document) and all(len(sentence) for sentence in document) for document in documents):
        raise TextError("a document or a sentence is empty; leave it out")
    if max_length < 5:
        raise ValueError(f"max_length={max_length} must be 5 or more: a word of each text between three markers")

    def integer(low, high):
        return low + int(next(random) * (high - low + 1))

    room = max_length - 3
    pairs = []
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            target = integer(2, room) if next(random) < short else room
            stop, length = start, 0
            while stop < len(document) and length < target:
                length += len(document[stop])
                stop += 1
            split = start + (integer(1, stop - start - 1) if stop - start > 1 else 1)
            first = [i for sentence in document[start:split] for i in sentence]
            elsewhere = split == stop or next(random) < 0.5
            if elsewhere:
                other = integer(0, len(documents) - 2)
                source = documents[other + (other >= number)]
                second: list[int] = []
                for sentence in source[integer(0, len(source) - 1) :]:
                    second += sentence
                    if len(second) >= target - len(first):
                        break
                stop = split  # what was replaced begins the next pair
            else:
                second = [i for sentence in document[split:stop] for i in sentence]
            while len(first) + len(second) > room:
                longer = first if len(first) > len(second) else second
                del longer[0 if next(random) < 0.5 else -1]
            pairs.append((first, second, int(elsewhere)))
            start = stop
    return pairs


def pack(pairs: Sequence[tuple[Sequence[int], Sequence[int], int]], words: Sequence[str]) -> dict[str, np.ndarray]:
    """Pairs of :func:`next_sentence_pairs` as a batch, padded to the longest.

    Args:
        pairs: (first text, second text, label).
        words: the vocabulary, by id.

    Returns:
        int64 arrays: ``"input_ids"``, ``"attention_mask"``, ``"token_type_ids"`` (N, T), ``"next_sentence_label"``
        (N,).
    """
    pad, _, cls, sep, _ = (words.index(token) for token in SPECIAL)
    rows = [[cls, *first, sep, *second, sep] for first, second, _ in pairs]
    shape = len(rows), max(map(len, rows))
    found = {"input_ids": np.full(shape, pad, np.int64)}
    found |= {name: np.zeros(shape, np.int64) for name in ("attention_mask", "token_type_ids")}
    for i, (row, (first, _, _)) in enumerate(zip(rows, pairs, strict=True)):
        found["input_ids"][i, : len(row)] = row
        found["attention_mask"][i, : len(row)] = 1
        found["token_type_ids"][i, len(first) + 2 : len(row)] = 1
    return {**found, "next_sentence_label": np.array([label for _, _, label in pairs], np.int64)}


GOOGLE_NAMES = (
    (r"^(global_step|.*/adam_[mv])$", ""),
    (r"^cls/predictions/output_bias$", "cls/predictions/bias"),
    (r"^cls/seq_relationship/output_", "cls/seq_relationship/"),
    (r"/layer_(\d+)/", r"/layer/\1/"),
    (r"/(kernel|gamma|weights)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"(_embeddings)$", r"\1/weight"),
    (r"/", "."),
)


def from_google(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a TensorFlow 1 checkpoint of BERT (google-research/bert) under our names, for pre-training.

    Kernels are transposed, the optimiser's tensors dropped, and the decoder, which is tied, gets its two names.

    Args:
        tensors: arrays by name, as ``tf.train.load_checkpoint`` reads them.

    Raises:
        TextError: if there is no word embedding among them.
    """
    found = {}
    for name, array in tensors.items():
        new = name
        for pattern, replacement in GOOGLE_NAMES:
            new = re.sub(pattern, replacement, new)
        if new:
            found[new] = np.ascontiguousarray(array.T) if name.endswith("/kernel") else array
    words = "bert.embeddings.word_embeddings.weight"
    if words not in found:
        raise TextError("bert/embeddings/word_embeddings is missing: not a checkpoint of BERT in TensorFlow 1")
    if "cls.predictions.bias" in found:
        found |= {"cls.predictions.decoder.weight": found[words]}
        found |= {"cls.predictions.decoder.bias": found["cls.predictions.bias"]}
    return found
