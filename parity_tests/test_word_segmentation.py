"""Word segmentation by dictionary and Markov model, tags and features of characters, and their scores."""

from functools import cache

import numpy as np
import pytest

from parity_tests.harness.packages import skip_without_package
from weights import checkpoints
from weights.processing import lac
from weights.processing import text as text_files
from weights.processing import word_segmentation as seg
from weights.processing.text import TextError

# dictionary and Markov model


@cache
def dictionary():
    with skip_without_package():
        return seg.open_dictionary()


@cache
def hmm():
    with skip_without_package():
        return seg.open_hmm()


def test_tables_are_jiebas():
    found = dictionary()
    path = checkpoints.package_file(seg.PACKAGE, "jieba/dict.txt")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 349_046  # one word is there twice
    assert sum(frequency > 0 for frequency in found.frequency.values()) == 349_045
    assert (found.total, found.longest) == (60_101_967, 16)
    assert {state: len(row) for state, row in hmm().emission.items()} == {"B": 6857, "M": 6409, "E": 7439, "S": 14519}
    never = -3.14e100
    assert hmm().start == {"B": -0.26268660809250016, "S": -1.4652633398537678, "E": never, "M": never}
    assert hmm().transition == {
        "B": {"E": -0.510825623765990, "M": -0.916290731874155},
        "E": {"B": -0.5897149736854513, "S": -0.8085250474669937},
        "M": {"E": -0.33344856811948514, "M": -1.2603623820268226},
        "S": {"B": -0.7211965654669841, "S": -0.6658631448798212},
    }


CUTS = {  # forward, backward, jieba
    "研究生命的起源": ("研究生/命/的/起源", "研究/生命/的/起源", "研究/生命/的/起源"),
    "北京大学生前来应聘": ("北京大学/生前/来/应聘", "北京/大学生/前来/应聘", "北京/大学生/前来/应聘"),
    "结婚的和尚未结婚的": ("结婚/的/和尚/未结/婚/的", "结婚/的/和/尚未/结婚/的", "结婚/的/和/尚未/结婚/的"),
}


@pytest.mark.parametrize("sentence", CUTS)
def test_matching(sentence):
    forward, backward, best = (words.split("/") for words in CUTS[sentence])
    assert seg.fmm(sentence, dictionary()) == forward
    assert seg.bmm(sentence, dictionary()) == backward
    assert seg.bimm(sentence, dictionary()) == backward
    assert seg.dag_unigram(sentence, dictionary()) == best
    assert seg.jieba_cut(sentence, dictionary()) == seg.jieba_cut(sentence, dictionary(), hmm()) == best


def test_markov_model_finds_what_the_dictionary_lacks():
    sentence = "他来到了网易杭研大厦"
    assert "/".join(seg.jieba_cut(sentence, dictionary())) == "他/来到/了/网易/杭/研/大厦"
    assert "/".join(seg.jieba_cut(sentence, dictionary(), hmm())) == "他/来到/了/网易/杭研/大厦"
    assert "/".join(seg.hmm_viterbi(sentence, hmm())) == "他来/到/了/网易/杭/研大厦"


SMALL = seg.Dictionary({"ab": 2, "abc": 2, "cd": 5, "de": 5, "a": 0, "c": 0, "d": 0, "bc": 1, "b": 0}, 15, 3)


def test_rules_of_the_directions():
    assert seg.fmm("abcde", SMALL) == ["abc", "de"]
    assert seg.bmm("abcde", SMALL) == ["abc", "de"]
    assert seg.fmm("abcde", SMALL, 2) == ["ab", "cd", "e"]
    assert seg.bmm("abcde", SMALL, 2) == ["a", "bc", "de"]
    assert seg.bimm("abcde", SMALL, 2) == ["a", "bc", "de"], "as many words and single letters: backward"
    fewer = seg.Dictionary({"ab": 1, "abc": 1, "d": 1, "bcd": 1, "a": 0, "b": 0, "bc": 0}, 4, 3)
    assert (seg.fmm("abcd", fewer), seg.bmm("abcd", fewer)) == (["abc", "d"], ["a", "bcd"])
    assert seg.bimm("abcd", fewer) == ["a", "bcd"]
    singles = seg.Dictionary({"ab": 1, "cd": 1, "bcd": 1, "a": 0, "b": 0, "bc": 0, "c": 0}, 3, 3)
    assert (seg.fmm("abcd", singles), seg.bmm("abcd", singles)) == (["ab", "cd"], ["a", "bcd"])
    assert seg.bimm("abcd", singles) == ["ab", "cd"], "fewer single letters"
    assert seg.fmm("", SMALL) == seg.bmm("", SMALL) == seg.bimm("", SMALL) == seg.dag_unigram("", SMALL) == []
    assert seg.fmm("xy", SMALL) == seg.dag_unigram("xy", SMALL) == ["x", "y"]


def test_best_path_takes_the_longer_word_of_equal_ones():
    equal = seg.Dictionary({"ab": 4, "a": 4, "b": 4}, 4, 2)  # log(4 / 4) = 0 on every path
    assert seg.dag_unigram("ab", equal) == ["ab"]


def test_jieba_says_the_same(tmp_path):
    jieba = pytest.importorskip("jieba")
    jieba.setLogLevel(60)
    jieba.dt.tmp_dir = str(tmp_path)
    rng = np.random.default_rng(0)
    words = np.array([word for word, frequency in dictionary().frequency.items() if frequency])
    others = [*"的了是我你在A9x+#&._%- \n\t，。！𠀀é", "3.14%", "c++", "\r\n", "AT&T", "杭研", "２０"]
    for _ in range(150):
        parts = [
            str(rng.choice(words) if rng.random() < 0.5 else rng.choice(others)) for _ in range(rng.integers(1, 12))
        ]
        sentence = "".join(part[: rng.integers(1, len(part) + 1)] for part in parts)
        assert seg.jieba_cut(sentence, dictionary(), hmm()) == list(jieba.cut(sentence)), ascii(sentence)
        assert seg.jieba_cut(sentence, dictionary()) == list(jieba.cut(sentence, HMM=False)), ascii(sentence)
        assert seg.hmm_viterbi(sentence, hmm()) == list(jieba.finalseg.cut(sentence)), ascii(sentence)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no words in it"),
        (b"\xff 3\n", "not UTF-8"),
        ("词 3 n\n词\n".encode(), "line 2: '词'; a word, a space and its frequency"),
        ("词 -3\n".encode(), "line 1: '词 -3'"),
        ("词 x\n".encode(), "line 1: '词 x'"),
        ("词 ３\n".encode(), "line 1"),
        ("词 3 n x\n".encode(), "line 1"),
        ("词 99999999999999\n".encode(), "line 1"),
        ("词 0\n".encode(), "no words in it"),
    ],
)
def test_bad_dictionaries_are_refused(tmp_path, content, message):
    path = tmp_path / "dict.txt"
    path.write_bytes(content)
    with pytest.raises(TextError, match=message) as error:
        seg.open_dictionary(path)
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


def test_files_that_are_not_there(tmp_path, monkeypatch):
    for call in (seg.open_dictionary, seg.open_hmm, lac.open_lexicon):
        with pytest.raises(TextError, match="cannot be read"):
            call(tmp_path / "none")
    monkeypatch.setattr(seg, "PACKAGE", "jieba==0.0.1")
    for call in (seg.open_dictionary, seg.open_hmm):
        with pytest.raises(checkpoints.CheckpointError, match="pip install"):
            call()
    monkeypatch.setattr(text_files, "MAX_FILE", 3)
    (tmp_path / "dict.txt").write_text("ab 3\n")
    with pytest.raises(TextError, match="more than 3 bytes; a dictionary is smaller"):
        seg.open_dictionary(tmp_path / "dict.txt")


# tags, features, scores


def test_tags_of_words():
    assert seg.bmes(["研究", "的", "北京大学"]) == "BESBMME"
    assert seg.words_of("研究的北京大学", "BESBMME") == ["研究", "的", "北京大学"]
    assert seg.words_of("abcdef", "MEBBSE") == ["ab", "c", "d", "e", "f"], "what is not allowed, too"
    with pytest.raises(ValueError, match="2 tags for a text of 3 characters"):
        seg.words_of("abc", "BE")


def test_scores():
    expected, found = [["ab", "c", "de"], ["f"]], [["ab", "cde"], ["f"]]
    scores = seg.compare(expected, found, {"ab", "f"})
    np.testing.assert_allclose([scores.precision, scores.recall, scores.f1], [2 / 3, 2 / 4, 4 / 7], rtol=1e-15)
    assert scores.oov_recall == 0
    assert seg.compare(expected, expected, {"f"}) == seg.Scores(1, 1, 1, 1)
    assert seg.compare([["a"]], [["a"]], {"a"}).oov_recall is None
    assert seg.compare([["ab"]], [["a", "b"]]) == seg.Scores(0, 0, 0, 0)
    with pytest.raises(ValueError, match="not segmentations of the same texts"):
        seg.compare([["ab"]], [["ac"]])


def test_features():
    found = seg.features("我9")
    assert found[0] == ["0:<", "1:<", "2:我", "3:9", "4:>", "5:<我", "6:我9", "7:<9", "8:<HD"]
    assert found[1] == ["0:<", "1:我", "2:9", "3:>", "4:>", "5:我9", "6:9>", "7:我>", "8:HD>"]
    table = seg.feature_vocabulary(["我9", "我x。"])
    assert table["0:<"] == 1 and sorted(table.values()) == list(range(1, len(table) + 1))
    assert "8:<HL" in table and "8:LO>" in table and set(seg.feature_vocabulary(["我9", "我x。"], 2)) < set(table)
    batch = seg.feature_input(["我9", "你"], table, 3)
    assert batch["features"].shape == (2, 3, 9)
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 0], [1, 0, 0]])
    assert batch["features"][0, 0].tolist() == [table[name] for name in found[0]]
    assert not batch["features"][0, 2].any() and (batch["features"][1, 0] == 0).sum() >= 4, "unknown features are 0"
    hashed = seg.feature_input("我9", 100, 2)["features"]
    assert hashed.min() >= 1 and hashed.max() < 100


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text was given"),
        ("", "text 0 is empty"),
        (["我", " \n"], "text 1 is empty"),
        ([None], "text 0: None is no text"),
        ("\ud83e", "half of a surrogate pair"),
        ("我" * 5, "text 0 has 5 characters, more than 4"),
    ],
)
def test_bad_texts_are_refused(texts, message):
    for call in (lambda: seg.feature_input(texts, 9, 4), lambda: lac.character_input({"OOV": 1}, texts, 4)):
        with pytest.raises(TextError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
