"""Mining, sampling, moved centres, partial classes and bad options of metric learning."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.losses.margin as tf_margin
import tf_impl.losses.pairwise as tf_pairwise
import tf_impl.metric.arcface as tf_arcface
import tf_impl.metric.center as tf_center
import tf_impl.metric.margin as tf_sampling
import torch_impl.losses.margin as torch_margin
import torch_impl.losses.pairwise as torch_pairwise
import torch_impl.metric.arcface as torch_arcface
import torch_impl.metric.center as torch_center
import torch_impl.metric.margin as torch_sampling
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_metric import BOTH, SIZE, stored
from weights import catalog

PANELS = {TensorFlow: (tf_pairwise, tf_margin, tf_arcface, tf_center, tf_sampling, tf.constant)}
PANELS[PyTorch] = torch_pairwise, torch_margin, torch_arcface, torch_center, torch_sampling, torch.tensor


@BOTH
def test_hardest_rows_are_the_stored_ones(panel):
    inputs, outputs = stored("batchhard_indices")
    pairwise, *_, tensor = PANELS[panel]
    d = pairwise.distances(tensor(inputs["E"]), tensor(inputs["E"]))
    masks = pairwise.pair_masks(tensor(inputs["labels"].astype(np.int64)))
    found = [np.asarray(pairwise.hardest(d, mask, mask is masks[0])[1]) for mask in masks]
    np.testing.assert_array_equal(found, outputs["batchhard_indices"][1:])


@BOTH
def test_centres_move_by_the_rule_of_the_paper(panel):
    center, tensor = PANELS[panel][3], PANELS[panel][-1]
    centers, x, labels = np.eye(3), np.arange(6.0).reshape(2, 3), np.array([1, 1])
    expected = centers.copy()
    expected[1] -= 0.5 * (2 * centers[1] - x.sum(0)) / 3
    np.testing.assert_allclose(
        np.asarray(center.moved_centers(tensor(centers), tensor(x), tensor(labels))), expected, rtol=1e-12
    )


@BOTH
def test_distance_weighted_sampling(panel):
    sampling, tensor = PANELS[panel][4], PANELS[panel][-1]
    x = np.abs(np.random.default_rng(0).standard_normal((7, 5)))
    x, labels = x / np.linalg.norm(x, axis=1, keepdims=True), np.array([0, 0, 1, 1, 2, 2, 2])
    weights = np.asarray(sampling.dws_weights(tensor(x), tensor(labels)))
    d = np.sqrt(np.maximum(2 - 2 * x @ x.T, 1e-12) + 1e-8)
    near_d = np.maximum(d, 0.5)
    expected = near_d ** (2.0 - 5) * (1 - near_d**2 / 4) ** (-(5 - 3) / 2)
    expected = expected * (labels[:, None] != labels) * (d < 1.4)
    np.testing.assert_allclose(weights, expected / expected.sum(1, keepdims=True), rtol=1e-10)
    draws = np.asarray(sampling.dws_negatives(tensor(weights), tensor(np.tile([[0.0, 0.999999999]], (7, 1)))))
    for row, (first, last) in zip(weights, draws, strict=True):
        assert [first, last] == [np.flatnonzero(row)[0], np.flatnonzero(row)[-1]]


@BOTH
def test_partial_classes_and_annealing(panel):
    _, margin, arcface, *_, tensor = PANELS[panel]
    labels, priorities = tensor([3, 7, -1]), tensor(np.array([0.1, 0.9, 0.2, 0.05, 0.5, 0.6, 0.3, 0.01]))
    classes = np.asarray(arcface.sample_classes(labels, priorities, 5))
    np.testing.assert_array_equal(classes, [1, 3, 4, 5, 7])
    np.testing.assert_array_equal(np.asarray(arcface.local_labels(labels, tensor(classes))), [1, 4, -1])
    assert [margin.annealing(it) for it in (0, 90, 10**6)] == [1500.0, 150.0, 5.0]


@BOTH
@pytest.mark.parametrize(
    "model, options, words",
    [
        ("triplet_hard", {"mining": "soft"}, "mining='soft' must be one of"),
        ("triplet_hard", {"swap": True}, "swap=True needs mining"),
        ("l_softmax", {"m": 5, **SIZE}, "m=5 must be 1, 2, 3 or 4"),
        ("combined_margin", {"margins": (2.0, 0.0, 0.0), "fallback": "monotone", **SIZE}, "needs m1 = 1"),
        ("cross_batch_memory", {"memory_size": 4, "embedding_size": 2, "policy": "queue"}, "policy='queue' must be"),
        ("margin_loss", {"form": "pairs"}, "form='pairs' must be"),
    ],
)
def test_bad_options(panel, model, options, words):
    with pytest.raises(ValueError, match=words.split("'")[0]):
        found = panel(catalog.get(model), options)
        found.losses({"embeddings": np.ones((2, 6))}, {"labels": np.array([0, 1])})
