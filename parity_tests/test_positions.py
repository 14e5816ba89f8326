"""Sinusoids of sentences' places, in the styles of the paper and of its implementations."""

import numpy as np
import pytest

import tf_impl.layers.positions as tf_positions
import tf_impl.nlp._transformer_layers as tf_layers
import torch_impl.layers.positions as torch_positions
import torch_impl.nlp._transformer_layers as torch_layers
from parity_tests.text_models import BOTH, TENSOR

pytestmark = pytest.mark.usefixtures("double_precision")
POSITIONS = (tf_positions, torch_positions)


def rows(which, places, dim, style):
    return np.asarray(POSITIONS[which].sinusoids(TENSOR[which](np.asarray(places, np.float64)), dim, style))


@BOTH
def test_sinusoids_of_the_paper_and_of_tensor2tensor(which):
    paper = [0.14112, -0.98999, 0.29552, 0.95534, 0.0299955, 0.99955, 0.00299999, 0.9999955]
    t2t = [0.14112, 0.138798101, 0.00646325907, 0.0003, -0.98999, 0.990320699, 0.999979113, 0.999999955]
    np.testing.assert_allclose(rows(which, 3, 8, "paper"), paper, rtol=0, atol=4e-6)
    np.testing.assert_allclose(rows(which, 3, 8, "t2t"), t2t, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(rows(which, 3, 8, "fairseq"), rows(which, 3, 8, "t2t"))
    halves = rows(which, [[3, 7]], 8, "marian")[0]
    np.testing.assert_array_equal(halves[0], np.r_[rows(which, 3, 8, "paper")[::2], rows(which, 3, 8, "paper")[1::2]])


@BOTH
def test_fairseq_counts_words_from_two_and_gives_padding_zeros(which):
    layer = (tf_layers, torch_layers)[which].SinusoidalPositions(8, "fairseq", 0)
    ids = np.array([[5, 6, 7, 1, 1], [1, 1, 5, 6, 7]])
    found = np.asarray(layer(TENSOR[which](ids), TENSOR[which](np.zeros(1))))
    expected = rows(which, [2, 3, 4], 8, "fairseq")
    np.testing.assert_allclose(found[0, :3], expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[1, 2:], expected, rtol=0, atol=1e-15)
    assert not found[0, 3:].any() and not found[1, :2].any()
    later = layer(TENSOR[which](ids[:, 2:3]), TENSOR[which](np.zeros(1)), TENSOR[which](np.array([2, 0])))
    np.testing.assert_allclose(later, rows(which, [[4], [2]], 8, "fairseq"), rtol=0, atol=1e-15)


def test_unknown_style_and_odd_width_are_named():
    for module in POSITIONS:
        with pytest.raises(ValueError, match="style='sine' must be one of paper, t2t, fairseq, marian"):
            module.sinusoids(None, 8, "sine")
        with pytest.raises(ValueError, match="dim=7 must be even"):
            module.sinusoids(None, 7)
