"""The random field: check values, PyTorch-CRF's numbers, padding, ties and constraints."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tf_impl.losses.crf as tf_crf
import torch_impl.losses.crf as torch_crf
from parity_tests.harness import fingerprints
from parity_tests.text_models import BOTH, TENSOR
from weights import onnx_file
from weights.processing import word_segmentation as seg

CRF = (tf_crf, torch_crf)


def f(shape, a, b=0.11):
    return np.sin(a * np.arange(int(np.prod(shape))) + b).reshape(shape)


CHECK = {
    "emissions": 2 * f((2, 5, 4), 0.9),
    "valid": np.array([[1] * 5, [1, 1, 1, 0, 0]]),
    "start_transitions": f((4,), 0.5),
    "end_transitions": f((4,), 0.7, 0.2),
    "transitions": f((4, 4), 1.1),
}
TAGS = np.array([[0, 2, 3, 0, 3], [3, 0, 3, -1, -1]])


@BOTH
def test_check_values(which):
    given = {name: TENSOR[which](value) for name, value in CHECK.items()}
    losses = np.asarray(CRF[which].crf_nll(**given, tags=TENSOR[which](TAGS)))
    np.testing.assert_allclose(losses, [18.0370947197, 3.9746991350], rtol=0, atol=1e-10)
    tags, scores = (np.asarray(x) for x in CRF[which].crf_decode(**given))
    np.testing.assert_array_equal(tags, [[1, 3, 1, 3, 0], [3, 0, 2, -1, -1]])
    np.testing.assert_allclose(scores, [11.8218454815, 7.6568290026], rtol=0, atol=1e-10)


def score(row, tags):
    e, start, end, between = (CHECK[n] for n in ("emissions", "start_transitions", "end_transitions", "transitions"))
    total = start[tags[0]] + end[tags[-1]] + sum(e[row, t, y] for t, y in enumerate(tags))
    return total + sum(between[a, b] for a, b in itertools.pairwise(tags))


def test_check_values_by_all_sequences():
    for row, (length, log_z) in enumerate([(5, 13.4244710294), (3, 9.0589406447)]):
        scores = {tags: score(row, tags) for tags in itertools.product(range(4), repeat=length)}
        np.testing.assert_allclose(np.log(np.exp(list(scores.values())).sum()), log_z, rtol=0, atol=1e-10)
        best = max(scores, key=scores.get)
        tags, value = seg.viterbi(CHECK["emissions"][row, :length], *(CHECK[n] for n in list(CHECK)[2:]))
        assert tuple(tags) == best and abs(value - scores[best]) < 1e-12


def stored(name):
    return np.reshape(name["data"], name["shape"])


@BOTH
def test_fingerprint_of_pytorch_crf(which):
    expected = fingerprints.load("pytorch_crf")
    arrays = {name: stored(value) for name, value in expected["inputs"].items()}
    arrays["valid"] = arrays.pop("mask")
    given = {name: TENSOR[which](value) for name, value in arrays.items()}
    for reduction in ("none", "sum", "mean", "token_mean"):
        found = np.asarray(CRF[which].crf_nll(**given, reduction=reduction))
        np.testing.assert_allclose(-found, stored(expected["outputs"][f"llh_{reduction}"]), rtol=2e-6)
    floats = [name for name, value in arrays.items() if value.dtype.kind == "f"]
    if which == 0:
        with tf.GradientTape() as tape:
            tape.watch([given[name] for name in floats])
            total = CRF[0].crf_nll(**given, reduction="sum")
        gradients = [g.numpy() for g in tape.gradient(total, [given[name] for name in floats])]
    else:
        for name in floats:
            given[name].requires_grad_()
        CRF[1].crf_nll(**given, reduction="sum").backward()
        gradients = [given[name].grad.numpy() for name in floats]
        given = {name: value.detach() for name, value in given.items()}
    for name, gradient in zip(floats, gradients, strict=True):
        assert onnx_file.relative(gradient, stored(expected["outputs"][f"nll_sum.grad_{name}"])) <= 1e-5, name
    del given["tags"]
    tags = np.asarray(CRF[which].crf_decode(**given)[0])
    for row, length in enumerate(arrays["valid"].sum(1)):
        np.testing.assert_array_equal(tags[row, :length], stored(expected["outputs"][f"viterbi.{row}"]))
        assert (tags[row, length:] == -1).all()


@BOTH
def test_padding_of_a_random_field_is_not_read(which):
    given, other = dict(CHECK), dict(CHECK)
    other["emissions"] = CHECK["emissions"] + 100 * (CHECK["valid"] == 0)[..., None] * f((2, 5, 4), 3.1)
    found = []
    for arrays, tags in ((given, TAGS), (other, np.where(TAGS < 0, 2, TAGS))):
        tensors = {name: TENSOR[which](value) for name, value in arrays.items()}
        decoded, scores = CRF[which].crf_decode(**tensors)
        losses = CRF[which].crf_nll(**tensors, tags=TENSOR[which](tags))
        found.append([np.asarray(x) for x in (decoded, scores, losses)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@BOTH
def test_lower_tags_win_ties(which):
    zeros = {name: TENSOR[which](np.zeros_like(value, np.float64)) for name, value in CHECK.items()}
    zeros["valid"] = TENSOR[which](CHECK["valid"])
    np.testing.assert_array_equal(np.asarray(CRF[which].crf_decode(**zeros)[0]), np.where(CHECK["valid"], 0, -1))


@BOTH
def test_constraints_leave_only_words(which):
    layer = CRF[which].CRF(4, CRF[which].BMES)
    rng = np.random.default_rng(0)
    emissions = (5 * rng.standard_normal((40, 7, 4))).astype(np.float32)
    mask = (np.arange(7) < rng.integers(1, 8, 40)[:, None]).astype(np.int64)
    outputs = layer(TENSOR[which](emissions), TENSOR[which](mask))
    if which:
        outputs = {name: value.detach() for name, value in outputs.items()}
    tags = np.asarray(CRF[which].crf_decode(**outputs)[0])
    free = np.asarray(CRF[which].crf_decode(**{**outputs, **unconstrained(which)})[0])
    words, broken = 0, 0
    for row, other, length in zip(tags, free, mask.sum(1), strict=True):
        names = "".join("BMES"[tag] for tag in row[:length])
        assert seg.bmes(seg.words_of("x" * length, names)) == names
        words, broken = words + 1, broken + (row[:length] != other[:length]).any()
    assert words == 40 and broken > 20
    allowed = {"start": "BS", "end": "ES", "B": "ME", "M": "ME", "E": "BS", "S": "BS"}
    start, between, end = CRF[which].BMES
    assert [tag for tag, no in zip("BMES", start, strict=True) if not no] == list(allowed["start"])
    assert [tag for tag, no in zip("BMES", end, strict=True) if not no] == list(allowed["end"])
    for tag, row in zip("BMES", between, strict=True):
        assert {other for other, no in zip("BMES", row, strict=True) if not no} == set(allowed[tag])


def unconstrained(which):
    sizes = {"start_transitions": 4, "end_transitions": 4, "transitions": (4, 4)}
    return {name: TENSOR[which](np.zeros(size, np.float32)) for name, size in sizes.items()}


@BOTH
def test_unknown_reductions_are_named(which):
    for reduction in ("none", "average"):
        with pytest.raises(ValueError, match=r"reduction must be one of .*'token_mean'"):
            CRF[which].CRFCriterion(reduction)
    given = {name: TENSOR[which](value) for name, value in CHECK.items()}
    with pytest.raises(ValueError, match="got 'average'"):
        CRF[which].crf_nll(**given, tags=TENSOR[which](TAGS), reduction="average")
