"""Text models in both panels, filled with seeded weights or with waves, and the inputs of their check values."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.nlp.text_classifiers import SMALL_FASTBERT, SMALL_TEXTCNN
from parity_tests.cases.nlp.transformer import SMALL_TRANSFORMER
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

PANELS = (TensorFlow, PyTorch)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])

GPT_IDS = np.array([[1, 5, 7, 9, 11, 3]])
BERT_INPUTS = {
    "input_ids": np.array([[2, 7, 9, 11, 3, 0], [2, 5, 3, 8, 6, 3]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1, 0], [1] * 6]),
    "token_type_ids": np.array([[0] * 6, [0, 0, 0, 1, 1, 1]]),
}
BERT_TARGETS = {
    "labels": np.array([[-100, 7, -100, 12, -100, -100], [-100, -100, -100, 8, -100, -100]]),
    "next_sentence_label": np.array([0, 1]),
}


def built(which, name, options, precision="float64", weights=seeded, strict=True, example=None):
    """A panel's model, filled."""
    panel = PANELS[which](catalog.get(name), options, precision=precision, example=example)
    if weights:
        panel.load(weights(panel.shapes(), panel.aliases()), strict=strict)
    return panel


def textcnn(which, name="textcnn_rand", fill=True, **options):
    example = {"input_ids": np.ones((1, 9), np.int64)}
    return built(which, name, {**SMALL_TEXTCNN, **options}, weights=seeded if fill else None, example=example)


def fastbert(which, precision="float64", **options):
    return built(which, "fastbert_base", {**SMALL_FASTBERT, **options}, precision)


def transformer(which, **options):
    return built(which, "transformer_base", {**SMALL_TRANSFORMER, **options}, strict=False)


@functools.cache
def kept(which, **options):
    """The model of :func:`transformer` for tests that do not change it."""
    return transformer(which, **options)


def waves(shapes, aliases):
    """The fill of the check values: a sine per tensor, of tied names the last in order."""
    found = {}
    for name in sorted(shapes):
        n = np.arange(int(np.prod(shapes[name]))).reshape(shapes[name])
        norm = name.endswith("LayerNorm.weight") or (".ln_" in name and name.endswith("weight"))
        found[name] = 0.08 * np.sin(0.7 * n + 0.13 * len(name)) + norm
    for name, first in aliases.items():
        found[name] = found[first] = found[max(name, first)]
    return found
