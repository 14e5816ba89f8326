"""The largest entries of rows, of few and of many, and the order of equal ones."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.top_k as tf_top_k
import torch_impl.layers.top_k as torch_top_k

KINDS = {
    "different": lambda scores: scores,
    "few values": lambda scores: scores.round(1),
    "mostly one": lambda scores: np.where(scores > 0.95, scores, -1),
}


@pytest.mark.parametrize("k", [0, 1, 20, 150, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_lower_index_of_equal_entries_comes_first(kind, k):
    scores = KINDS[kind](np.random.default_rng(0).uniform(0, 1, (2, 3, 200)))
    expected = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    for package, tensor in ((tf_top_k, tf.constant), (torch_top_k, torch.tensor)):
        values, indices = package.top_k(tensor(scores), k)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, -1))


@pytest.mark.parametrize("k", [2, 40])
def test_gradients_reach_the_entries_that_are_taken(k):
    scores = np.random.default_rng(0).uniform(0, 1, (3, 64)).round(1)
    row, column = np.arange(3)[:, None], np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    expected = np.zeros_like(scores)
    expected[row, column] = np.arange(k)
    given = torch.tensor(scores, requires_grad=True)
    (torch_top_k.top_k(given, k)[0] * torch.arange(k)).sum().backward()
    np.testing.assert_array_equal(given.grad, expected)
    given = tf.constant(scores)
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(tf_top_k.top_k(given, k)[0] * tf.range(k, dtype=given.dtype))
    np.testing.assert_array_equal(tape.gradient(total, given), expected)
