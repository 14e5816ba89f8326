"""Attention in both panels: formulas written out, PyTorch's and Keras's own layers, masks of every kind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.attention as tf_attention
import torch_impl.layers.attention as torch_attention
from parity_tests.cases.nlp.transformer import HEADS, SINGLE, attended, padding
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

MODULES = (tf_attention, torch_attention)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
TENSOR = (tf.constant, torch.tensor)


def built(which, model, inputs, **options):
    """A layer of one panel with seeded weights; the panel and the weights."""
    panel = (TensorFlow, PyTorch)[which](catalog.get(model), options, example=inputs)
    values = seeded(panel.shapes())
    panel.load(values)
    return panel, {name: value.astype(np.float64) for name, value in values.items()}


def batch(*widths, masks=False):
    return attended(*widths, masks=masks)(np.random.default_rng(3), 2)


def softmax(scores, masked):
    scores = np.where(masked, -np.inf, scores)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return np.nan_to_num(weights / weights.sum(-1, keepdims=True))


def pairs(values, q, k):
    return np.tanh((q @ values["query_proj.weight"].T + values["query_proj.bias"])[:, :, None] + k[:, None])


FORMULAS = {  # model: options, scores of every pair
    "dot_attention": ({}, lambda v, q, k: np.einsum("ntd,nsd->nts", q, k)),
    "scaled_dot_attention": ({}, lambda v, q, k: np.einsum("ntd,nsd->nts", q, k) / np.sqrt(6)),
    "general_attention": (SINGLE, lambda v, q, k: np.einsum("ntq,qk,nsk->nts", q, v["key_proj.weight"], k)),
    "additive_attention": (
        {**SINGLE, "attention_dim": 8, "bias": True},
        lambda v, q, k: pairs(v, q, k @ v["key_proj.weight"].T) @ v["score_proj.weight"][0],
    ),
    "concat_attention": (
        {**SINGLE, "attention_dim": 8},
        lambda v, q, k: (
            np.tanh(
                np.concatenate([np.repeat(q[:, :, None], 5, 2), np.repeat(k[:, None], 7, 1)], -1)
                @ v["pair_proj.weight"].T
            )
            @ v["score_proj.weight"][0]
        ),
    ),
}


@BOTH
@pytest.mark.parametrize("model", FORMULAS)
def test_scores_are_their_formula(model, which):
    options, formula = FORMULAS[model]
    inputs = batch(6, 5 if options else 6, 4)
    panel, values = built(which, model, inputs, **options)
    weights = softmax(formula(values, inputs["query"], inputs["key"]), inputs["key_padding_mask"][:, None])
    found = panel.outputs(inputs)
    np.testing.assert_allclose(found["weights"], weights, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["output"], weights @ inputs["value"], rtol=0, atol=1e-14)


@BOTH
@pytest.mark.parametrize("predictive", [True, False], ids=["local_p", "local_m"])
def test_local_attention_is_its_formula(predictive, which):
    inputs = batch(6, 5, 4)
    panel, values = built(which, "local_attention", inputs, **SINGLE, window=1, predictive=predictive)
    q, k, masked = inputs["query"], inputs["key"], inputs["key_padding_mask"]
    centre = np.tile(np.arange(7.0), (2, 1))
    if predictive:
        hidden = np.tanh(q @ values["position_proj.weight"].T) @ values["position_score.weight"][0]
        centre = (~masked).sum(1)[:, None] / (1 + np.exp(-hidden))
    distance = np.arange(5) - centre[..., None]
    scores = np.einsum("ntq,qk,nsk->nts", q, values["key_proj.weight"], k)
    weights = softmax(scores, masked[:, None] | (np.abs(distance) > 1))
    if predictive:
        weights = weights * np.exp(-2 * distance**2)  # sigma = 1 / 2
    np.testing.assert_allclose(panel.outputs(inputs)["weights"], weights, rtol=0, atol=1e-14)
    assert (weights[:, 6] == 0).all() != predictive, "query 6 looks behind the last key"


@BOTH
def test_cores_are_keras(which):
    """Keras's layers have no projections; with ours set to the identity they compute the same."""
    inputs = batch(6, 6, 4)
    given = [tf.constant(inputs[name]) for name in ("query", "value", "key")]
    masks = [None, tf.constant(~inputs["key_padding_mask"])]  # True = keep
    identity, scale = np.eye(6), np.linspace(-1, 2, 6)
    theirs = keras.layers.AdditiveAttention(dtype="float64")
    theirs.build([x.shape for x in given])
    theirs.scale.assign(scale)
    expected = {
        "additive_attention": theirs(given, mask=masks),
        "dot_attention": keras.layers.Attention(dtype="float64")(given, mask=masks),
        "concat_attention": keras.layers.Attention(score_mode="concat", dtype="float64")(given, mask=masks),
    }
    tensors = {
        "additive_attention": {"query_proj.weight": identity, "key_proj.weight": identity, "score_proj.weight": scale},
        "concat_attention": {"pair_proj.weight": np.concatenate([identity] * 2, 1), "score_proj.weight": np.ones(6)},
        "dot_attention": {},
    }
    for model, values in tensors.items():
        options = {"query_dim": 6, "key_dim": 6, "attention_dim": 6} if values else {}
        panel, _ = built(which, model, inputs, **options)
        panel.load({name: np.atleast_2d(value) for name, value in values.items()})
        np.testing.assert_allclose(panel.outputs(inputs)["output"], expected[model], rtol=0, atol=1e-12, err_msg=model)


# several heads


@BOTH
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kdim, vdim, bias", [(16, 16, True), (10, 12, True), (16, 12, False)])
def test_several_heads_are_pytorchs(kdim, vdim, bias, need_weights, which):
    inputs = batch(16, kdim, vdim, masks=True)
    options = {**HEADS, "kdim": kdim, "vdim": vdim, "bias": bias}
    panel, values = built(which, "multihead_attention", inputs, **options, need_weights=need_weights)
    theirs = torch.nn.MultiheadAttention(**options, batch_first=True).double().eval()
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    expected = theirs(**given, average_attn_weights=False)
    found = panel.outputs(inputs)
    seen = ~(inputs["key_padding_mask"][:, None] | inputs["attn_mask"]).all(-1)  # elsewhere they have NaN
    assert not seen[:, 0].any() and seen[:, 1:].all()
    np.testing.assert_allclose(found["output"][seen], expected[0].detach().numpy()[seen], rtol=0, atol=1e-14)
    bias_alone = values["out_proj.bias"] if bias else np.zeros(16)
    np.testing.assert_array_equal(found["output"][:, 0], np.tile(bias_alone, (2, 1)))
    if need_weights:
        assert found["weights"].shape == (2, 4, 7, 5)
        np.testing.assert_array_equal(found["weights"][:, :, 0], 0)
        np.testing.assert_allclose(found["weights"][:, :, 1:], expected[1].detach()[:, :, 1:], rtol=0, atol=1e-14)


@BOTH
def test_several_heads_are_keras(which):
    """Keras stores (D, heads, E) kernels, and (heads, E, D) at the output; True = keep."""
    inputs = batch(16, 10, 12)
    panel, values = built(which, "multihead_attention", inputs, **HEADS, kdim=10, vdim=12)
    theirs = keras.layers.MultiHeadAttention(4, 4, dtype="float64")
    given = {name: tf.constant(inputs[name]) for name in ("query", "value", "key")}
    theirs(**given)
    kernels = [values[f"{name}_proj_weight"].T.reshape(-1, 4, 4) for name in "qkv"]
    biases = values["in_proj_bias"].reshape(3, 4, 4)
    for layer, kernel, bias in zip((theirs._query_dense, theirs._key_dense, theirs._value_dense), kernels, biases):
        layer.set_weights([kernel, bias])
    theirs._output_dense.set_weights([values["out_proj.weight"].T.reshape(4, 4, 16), values["out_proj.bias"]])
    expected = theirs(**given, attention_mask=tf.constant(~inputs["key_padding_mask"][:, None]))
    np.testing.assert_allclose(panel.outputs(inputs)["output"], expected, rtol=0, atol=1e-14)


@BOTH
def test_masks_may_be_left_out_or_given_alone(which):
    inputs = batch(16, 16, 16, masks=True)
    panel, _ = built(which, "multihead_attention", inputs, **HEADS)
    given = panel.tensors(inputs)
    nothing = {
        "key_padding_mask": np.zeros((2, 5), bool),
        "attn_mask": np.zeros((7, 5), bool),
    }
    for names in ((), ("key_padding_mask",), ("attn_mask",)):
        found = panel.model(*[given[n] if n in ("query", "key", "value", *names) else None for n in inputs])
        expected = panel.outputs({**inputs, **{n: mask for n, mask in nothing.items() if n not in names}})["output"]
        np.testing.assert_allclose(panel.arrays({"y": found})["y"], expected, rtol=0, atol=1e-15)


@BOTH
def test_a_query_without_keys_gets_zero_and_no_gradient(which):
    inputs = batch(16, 16, 16, masks=True)
    for need_weights in (False, True):
        panel, _ = built(which, "multihead_attention", inputs, **HEADS, need_weights=need_weights)
        found = panel.gradients(inputs, {}, wrt_inputs=True)
        assert all(np.isfinite(value).all() for value in found.values())
        np.testing.assert_array_equal(found["input.query"][:, 0], 0)
        np.testing.assert_array_equal(found["input.key"][inputs["key_padding_mask"]], 0)


@BOTH
def test_parameters_and_names_at_the_published_size(which):
    inputs = {name: np.zeros((1, 2, 512)) for name in ("query", "key", "value")}
    panel = (TensorFlow, PyTorch)[which](
        catalog.get("multihead_attention"), {"embed_dim": 512, "num_heads": 8}, example=inputs, precision="float32"
    )
    theirs = torch.nn.MultiheadAttention(512, 8).state_dict()
    assert panel.shapes() == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert sum(value.size for value in panel.state().values()) == 1_050_624
    weight, bound = panel.state()["in_proj_weight"], (6 / (4 * 512)) ** 0.5
    assert bound * 0.999 < np.abs(weight).max() <= bound and abs(weight.std() - bound / 3**0.5) < 1e-4


# the cores


@BOTH
@pytest.mark.parametrize("queries", [1, 3, 5])
def test_causal_mask_lets_the_last_query_see_all(queries, which):
    q, k = TENSOR[which](np.zeros((2, queries, 4))), TENSOR[which](np.zeros((2, 5, 4)))
    expected = np.arange(5) > np.arange(queries)[:, None] + 5 - queries
    np.testing.assert_array_equal(MODULES[which].causal_mask(q, k), expected)


@BOTH
def test_fused_attention_is_pytorchs(which):
    """There True = keep; what must be seen is never lost, however low its score is."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, n, 4)) for n in (7, 5, 5))
    k[:, :, 0] *= 1e4
    masked = padding(2, 5)[:, None, None]
    bias = MODULES[which].mask_bias(TENSOR[which](masked), (tf.float64, torch.float64)[which])
    found = MODULES[which].attend(*(TENSOR[which](x) for x in (q, k, v)), bias)
    tensors = [torch.tensor(x) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors, torch.tensor(~masked))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@BOTH
def test_heads_are_runs_of_channels(which):
    x = TENSOR[which](np.arange(2 * 3 * 8).reshape(2, 3, 8))
    heads = MODULES[which].split_heads(x, 4)
    np.testing.assert_array_equal(heads[1, 2], np.asarray(x)[1, :, 4:6])
    np.testing.assert_array_equal(MODULES[which].merge_heads(heads), x)


@BOTH
def test_dropout_is_on_the_weights_in_training_alone(which):
    inputs = batch(16, 16, 16)
    panel, _ = built(which, "multihead_attention", inputs, **HEADS, dropout=0.5)
    plain, _ = built(which, "multihead_attention", inputs, **HEADS)
    np.testing.assert_array_equal(panel.outputs(inputs)["output"], plain.outputs(inputs)["output"])
    assert np.abs(panel.outputs(inputs, training=True)["output"] - plain.outputs(inputs)["output"]).max() > 1e-3


@BOTH
def test_heads_must_divide_the_width(which):
    with pytest.raises(ValueError, match="embed_dim=10 must be a multiple of num_heads=4"):
        MODULES[which].MultiheadAttention(10, 4)
