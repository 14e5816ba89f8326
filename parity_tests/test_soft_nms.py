"""Soft suppression against the sequences of mmcv, and with classes, padding and ties, in both panels."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

AT = np.arange(12)
WAVES = np.sin(0.7371 * AT), np.cos(0.7371 * AT), np.sin(0.7371 * AT + 1), np.cos(0.7371 * AT + 1)
BOXES = np.stack([50 + 20 * WAVES[0], 50 + 20 * WAVES[1], 100 + 25 * WAVES[2], 100 + 25 * WAVES[3]], -1)
SCORES = 0.5 + 0.45 * np.sin(2.3 * AT)
ORDER = [9, 6, 3, 4, 1, 11, 7, 0, 5, 10, 8, 2]
GAUSSIAN = [0.93252, 0.87256, 0.73827, 0.43864, 0.37196, 0.26028, 0.12962, 0.08599, 0.03754, 0.02983, 0.02014, 0.00856]
LINEAR = [0.93252, 0.92466, 0.7603, 0.6003, 0.32978, 0.24703, 0.1455, 0.05487, 0.03384, 0.0237, 0.00916, 0.00685]

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])


def suppressed(package, boxes, scores, labels, valid, *args, **options):
    function = importlib.import_module(f"{package}.layers.soft_nms").batched_soft_nms
    given = tf.constant if package == "tf_impl" else torch.from_numpy
    found = function(*(given(np.asarray(x)) for x in (boxes, scores, labels, valid)), *args, **options)
    return [np.asarray(x) for x in found]


def one_image(package, most=12, labels=None, valid=None, **options):
    labels = np.zeros(12, np.int64) if labels is None else labels
    valid = np.ones(12, bool) if valid is None else valid
    found = suppressed(package, BOXES[None], SCORES[None], labels[None], valid[None], most, **options)
    return [x[0] for x in found]


@both
@pytest.mark.parametrize(("method", "expected"), [("gaussian", GAUSSIAN), ("linear", LINEAR)])
def test_sequence_is_that_of_mmcv(package, method, expected):
    index, scores, valid = one_image(package, method=method)
    assert index.tolist() == ORDER
    assert valid.all()
    np.testing.assert_allclose(scores, expected, atol=6e-6)


@both
def test_naive_is_hard_suppression(package):
    index, _, valid = one_image(package, method="naive")
    module = importlib.import_module(f"{package}.layers.nms")
    given = tf.constant if package == "tf_impl" else torch.from_numpy
    zeros, ones = np.zeros((1, 12), np.int64), np.ones((1, 12), bool)
    hard = module.batched_nms(*(given(x) for x in (BOXES[None], SCORES[None], zeros, ones)), 0.3, 12)
    index, hard_index = index[valid], np.asarray(hard[0])[0][np.asarray(hard[1])[0]]
    assert index.tolist() == hard_index.tolist()


@both
def test_classes_are_as_separate_runs(package):
    labels = AT % 2
    index, scores, _ = one_image(package, labels=labels)
    for label in (0, 1):
        own, alone, _ = one_image(package, most=6, valid=labels == label)
        assert index[labels[index] == label].tolist() == own.tolist()
        np.testing.assert_allclose(scores[labels[index] == label], alone, rtol=1e-12)


@both
def test_padding_low_scores_and_ties(package):
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90.0]])
    given = boxes[None], np.array([[0.5, 0.5, 1e-4, 0.9]]), np.zeros((1, 4), np.int64)
    index, scores, valid = suppressed(package, *given, np.array([[True, True, True, False]]), 3)
    assert index[0, :2].tolist() == [0, 1]  # of equal scores the first
    assert valid.tolist() == [[True, True, False]]
    np.testing.assert_allclose(scores, [[0.5, 0.5 * np.exp(-2), 0]])


@both
def test_offset_counts_the_last_pixel(package):
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9.0]])  # 10 x 10 pixels each, 5 x 10 shared
    given = boxes[None], np.array([[0.9, 0.8]]), np.zeros((1, 2), np.int64), np.ones((1, 2), bool)
    _, scores, _ = suppressed(package, *given, 2, offset=1.0)
    np.testing.assert_allclose(scores, [[0.9, 0.8 * np.exp(-((1 / 3) ** 2) / 0.5)]])


@both
def test_unknown_method_is_named(package):
    with pytest.raises(ValueError, match="method='hard' must be 'gaussian', 'linear' or 'naive'"):
        one_image(package, method="hard")
