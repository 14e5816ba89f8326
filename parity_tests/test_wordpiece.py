"""WordPiece: what it cuts, batches of sentences and of segments, and files that are refused."""

import json

import numpy as np
import pytest

from parity_tests.harness.packages import skip_without_package
from parity_tests.text_files import WORDPIECES, wordpiece_file
from weights import catalog, checkpoints
from weights.processing import text
from weights.processing.sentences import segment_input
from weights.processing.text import SPECIAL, TextError, sentence_input

IDS = ("input_ids", "attention_mask", "token_type_ids")


def package(file):
    entry = catalog.get("all_minilm_l6_v2").checkpoint()
    with skip_without_package():
        return checkpoints.package_file(entry.package, entry.tokenizer).parent / file


SPLIT = {
    "unaffable Naïve résumé 中文 don't": "una ##ffa ##ble naive resume 中 文 don ' t",
    "tokenization, WordPiece!": "token ##ization , word ##piece !",
    "a\tb\nc\rd\xa0e": "a b c d e",
    "a\x00b\ufffdc\x07d": "abc ##d",
    "$1,234.56": "$ 1 , 234 . 56",
    "a_b^c`d~e": "a _ b ^ c ` d ~ e",
    "«quoted» – dash…": "« quoted » – dash …",
    "İstanbul ÅNGSTRÖM": "istanbul ang ##strom",
    "漢字kanji": "漢 [UNK] kan ##ji",
    "🤗 smile": "[UNK] smile",
    "a" * 100: "aaa " + "##aa " * 48 + "##a",
    "a" * 101: "[UNK]",
    "fill [MASK] in": "fill [MASK] in",
}


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_wordpiece(file):
    tokenizer = text.open_tokenizer(package(file), vocab_size=30522)
    for sentence, pieces in SPLIT.items():
        assert tokenizer.encode(sentence).tokens == ["[CLS]", *pieces.split(), "[SEP]"], ascii(sentence)
    assert text.vocabulary(tokenizer) == package("vocab.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def small(tmp_path):
    """The path of a small vocabulary."""
    return wordpiece_file(tmp_path)


def test_cased_vocabulary_keeps_case_and_accents(small):
    assert text.open_tokenizer(small).encode("Hello É").tokens[1:-1] == ["hello", "e"]
    assert text.open_tokenizer(small, lowercase=False).encode("Hello é É").tokens[1:-1] == ["Hello", "é", "[UNK]"]


def test_longest_piece_wins_and_one_missing_piece_loses_the_word(small):
    tokenizer = text.open_tokenizer(small)
    assert tokenizer.encode("hello hehello hellohello he.").tokens[1:-1] == ["hello", "[UNK]", "[UNK]", "he", "."]


def test_batch_is_padded_to_its_longest_row_and_cut_at_the_limit(small):
    found = sentence_input(small, ["hello", "he he he", ("he he he he", "hello.")], max_length=7)
    he, hello, stop = (WORDPIECES.index(word) for word in ("he", "hello", "."))
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)} and tuple(found) == IDS
    np.testing.assert_array_equal(
        found["input_ids"],
        [[2, hello, 3, 0, 0, 0, 0], [2, he, he, he, 3, 0, 0], [2, he, he, 3, hello, stop, 3]],
    )
    np.testing.assert_array_equal(found["attention_mask"].sum(1), [3, 5, 7])
    np.testing.assert_array_equal(found["token_type_ids"], [[0] * 7, [0] * 7, [0, 0, 0, 0, 1, 1, 1]])
    alone = sentence_input(text.open_tokenizer(small), "hello")
    np.testing.assert_array_equal(alone["input_ids"], [[2, hello, 3]])
    assert sentence_input(small, "he " * 5000)["input_ids"].shape == (1, 512)


def test_limit_must_leave_room(small):
    assert sentence_input(small, "he he", max_length=3)["input_ids"].shape == (1, 3)
    with pytest.raises(ValueError, match="max_length=2 must be 3 or more"):
        sentence_input(small, "he", max_length=2)
    with pytest.raises(ValueError, match="max_length=4 must be 5 or more"):
        sentence_input(small, [("he", "he")], max_length=4)


def test_tokenizer_files_that_cannot_be_opened(tmp_path, monkeypatch, small):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(TextError, match="cannot be read"):
            text.open_tokenizer(path)
    monkeypatch.setattr(text, "MAX_FILE", 10)
    with pytest.raises(TextError, match="more than 10 bytes"):
        text.open_tokenizer(small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"]["vocab"].update(far=10**9), "ids up to 1000000000 for 14 tokens"),
        (lambda t: t.update(post_processor=None), "does not put a text between"),
        (lambda t: (t["model"]["vocab"].pop("[MASK]"), t.update(added_tokens=[])), r"lacks \[MASK\]"),
        (lambda t: t["model"].update(unk_token="nothing"), "cannot split text"),
    ],
)
def test_changed_tokenizer_json_is_refused(tmp_path, small, change, message):
    tokenizer = json.loads(text.open_tokenizer(small).to_str())
    change(tokenizer)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(TextError, match=message):
        text.open_tokenizer(path)


def test_segments_mark_the_texts_and_the_padding(tmp_path):
    small = wordpiece_file(tmp_path, [*SPECIAL, "he", "hello", "中"])
    found = segment_input(small, ["hello", ("he 中", "hello x")])
    np.testing.assert_array_equal(found["input_ids"], [[2, 6, 3, 0, 0, 0, 0], [2, 5, 7, 3, 6, 1, 3]])
    np.testing.assert_array_equal(found["segment_ids"], [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 2, 2, 2]])
    assert list(found) == list(catalog.get("fastbert_base").inputs)
