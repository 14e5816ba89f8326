"""The protocol of LFW on made-up faces."""

import numpy as np
import pytest

from weights.processing.face.verification import both_sides, fold_accuracies, pair_similarities


def test_faces_of_one_person_are_told_from_others():
    rng = np.random.default_rng(0)
    people = rng.standard_normal((200, 16))
    same = np.arange(200) % 2 == 0
    other = np.where(same[:, None], people + 0.3 * rng.standard_normal((200, 16)), rng.standard_normal((200, 16)))
    first, second = both_sides(people, people), both_sides(other, other, "concat")[:, :16] * np.sqrt(2)
    found = fold_accuracies(pair_similarities(first, second), same)
    assert found.shape == (10,) and found.mean() > 0.95
    assert abs(fold_accuracies(rng.uniform(size=200), same).mean() - 0.5) < 0.15


def test_a_threshold_is_not_chosen_on_what_it_is_judged_on():
    # what is right for the first half is wrong for the second
    similarities, same = np.array([0.1, 0.9, 0.1, 0.9]), np.array([False, True, True, False])
    np.testing.assert_array_equal(fold_accuracies(similarities, same, 2), [0.5, 0.0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="folds=5"):
        fold_accuracies(np.zeros(4), np.zeros(4, bool), 5)
    with pytest.raises(ValueError, match="join='mean'"):
        both_sides(np.ones((1, 2)), np.ones((1, 2)), "mean")
