"""Word segmentation by dictionary and Markov model."""

from functools import cache

import numpy as np
import pytest

from parity_tests.harness.packages import skip_without_package
from weights import checkpoints
from weights.processing import lac
from weights.processing import text as text_files
from weights.processing import word_segmentation as seg
from weights.processing.text import TextError


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
