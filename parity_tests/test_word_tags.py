"""Tags of characters, their features, and scores of segmentations."""

import numpy as np
import pytest

from weights.processing import word_segmentation as seg


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
