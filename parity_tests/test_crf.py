"""The random field, and recurrent layers over texts of several lengths."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.recurrent as tf_recurrent
import tf_impl.losses.crf as tf_crf
import tf_impl.state
import torch_impl.layers.recurrent as torch_recurrent
import torch_impl.losses.crf as torch_crf
import torch_impl.nlp.word_segmentation as torch_segmentation
import torch_impl.state
from parity_tests.cases.nlp.word_segmentation import SMALL_BILSTM, characters
from parity_tests.harness import fingerprints
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_published import with_masks
from weights import catalog, onnx_file
from weights.processing import word_segmentation as seg
from weights.seeded import seeded

PANELS = (TensorFlow, PyTorch)
CRF = (tf_crf, torch_crf)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])

# the random field


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


@BOTH
def test_random_field_over_features_learns_words(which):
    sentences = ["研究/生命/的/起源", "北京/大学生/前来/应聘", "结婚/的/和/尚未/结婚/的", "他/来到/了/北京"]
    words = [sentence.split("/") for sentence in sentences]
    texts = ["".join(row) for row in words]
    table = seg.feature_vocabulary(texts)
    inputs = seg.feature_input(texts, table, 10)
    tags = np.full((4, 10), -1)
    for row, sentence in zip(tags, words, strict=True):
        row[: len("".join(sentence))] = ["BMES".index(tag) for tag in seg.bmes(sentence)]
    panel = PANELS[which](catalog.get("linear_crf"), {"num_features": len(table) + 1})
    history = panel.train(inputs, {"tags": tags}, 0.0, steps=12)
    assert history[-1]["total"] < 0.5 * history[0]["total"]
    state = panel.state()
    weights = np.concatenate([array.ravel() for array in state.values()])
    np.testing.assert_allclose(panel.train(inputs, {"tags": tags}, 0.0, 1)[0]["penalty"], 0.1 * (weights**2).sum())
    assert not state["features.weight"][0].any(), "row 0 stays that of no feature"
    found = panel.results(inputs)["tags"]
    cut = [
        seg.words_of(text, ["BMES"[tag] for tag in row[: len(text)]]) for text, row in zip(texts, found, strict=True)
    ]
    assert seg.compare(words, cut) == seg.Scores(1, 1, 1, 1)


# recurrent layers over texts of several lengths


@pytest.mark.parametrize("form", [{}, {"bidirectional": True}, {"bidirectional": True, "num_layers": 2}], ids=str)
def test_lstm_reads_every_text_from_its_own_end(form):
    torch.manual_seed(0)
    theirs = torch_recurrent.LSTM(5, 4, batch_first=True, **form)
    ours = tf_impl.state.build(tf_recurrent.LSTM(4, batch_first=True, **form), {"x": ((6, 5), "float32")})
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    x, lengths = np.random.default_rng(0).standard_normal((3, 6, 5)).astype(np.float32), np.array([4, 6, 1])
    found, states = ours(tf.constant(x), lengths=tf.constant(lengths))
    found, states = found.numpy(), [state.numpy() for state in states]
    other, last = theirs(torch.tensor(x), lengths=torch.tensor(lengths))
    for a, b in zip((found, *states), (other, *last), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=1e-6)
    for row, length in enumerate(lengths):
        alone, last = theirs(torch.tensor(x[row : row + 1, :length]))
        for state, expected in zip(states, last, strict=True):
            np.testing.assert_allclose(state[:, row], expected.detach().numpy()[:, 0], rtol=0, atol=1e-6)
        alone = alone.detach().numpy()[0]
        np.testing.assert_allclose(found[row, :length], alone, rtol=0, atol=1e-6)
        assert not found[row, length:].any()


def test_size_of_the_lstm():
    model = torch_segmentation.bilstm_crf(vocab_size=10)
    assert sum(p.numel() for p in model.lstm.parameters()) == 302_400
    names = {"embedding.weight", "hidden2tag.weight", "hidden2tag.bias", "crf.transitions", "crf.start_transitions"}
    assert names < set(model.state_dict()) and "lstm.weight_hh_l0_reverse" in model.state_dict()


@BOTH
def test_padding_of_a_text_changes_nothing(which):
    inputs = characters(8)(np.random.default_rng(0), 3)
    for name, options in (("bilstm_crf", SMALL_BILSTM), ("bigru_crf_lac", {"vocab_size": 50, **SIZES})):
        panel = PANELS[which](catalog.get(name), options)
        panel.load(seeded(panel.shapes()))
        expected = panel.outputs(inputs)["emissions"]
        other = {**inputs, "input_ids": np.where(inputs["mask"], inputs["input_ids"], 7)}
        longer = {key: np.pad(value, [(0, 0), (0, 3)]) for key, value in other.items()}
        found = panel.outputs(longer)["emissions"]
        for row, length in enumerate(inputs["mask"].sum(1)):
            np.testing.assert_allclose(found[row, :length], expected[row, :length], rtol=0, atol=1e-13)


def test_dropout_is_in_the_same_place_of_both_panels(monkeypatch):
    inputs = characters(8)(np.random.default_rng(0), 3)
    masks, emissions = with_masks(monkeypatch, False), []
    for panel in PANELS:
        built = panel(catalog.get("bilstm_crf"), {**SMALL_BILSTM, "dropout": 0.5})
        built.load(seeded(built.shapes()))
        emissions.append(built.outputs(inputs, training=True)["emissions"])
    assert masks[0].rates == masks[1].rates == [0.5]
    assert onnx_file.relative(*emissions) <= 1e-10
    assert onnx_file.relative(emissions[1], built.outputs(inputs)["emissions"]) > 1e-3


SIZES = {"embed_dim": 8, "hidden": 6, "num_tags": 5}


@BOTH
def test_text_without_characters_has_no_tags(which):
    inputs = {name: np.zeros((2, 4), np.int64) for name in ("input_ids", "mask")}
    panel = PANELS[which](catalog.get("bilstm_crf"), SMALL_BILSTM)
    assert panel.losses(inputs, {"tags": np.zeros((2, 4), np.int64)})["total"] == 0
    assert (panel.results(inputs)["tags"] == -1).all()
