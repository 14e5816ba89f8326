"""GPT-1 and GPT-2: check values, the cache, how tokens are chosen, and OpenAI's files."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.gpt as tf_gpt
import tf_impl.nlp.gpt_decoding as tf_decoding
import torch_impl.nlp.gpt as torch_gpt
import torch_impl.nlp.gpt_decoding as torch_decoding
from parity_tests.cases.nlp.gpt import SMALL_GPT, SMALL_REFERENCE, hugging_face, tokens
from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case
from parity_tests.harness.measure import Proof
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file, store
from weights.processing import bpe
from weights.processing.text import TextError
from weights.seeded import seeded

PANELS = (TensorFlow, PyTorch)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
MODELS = pytest.mark.parametrize("name", ["gpt1", "gpt2"])
DECODING = (tf_decoding, torch_decoding)
TENSOR = (tf.constant, torch.tensor)


def built(which, name, options, precision="float64", weights=seeded):
    """A panel's model, filled."""
    panel = PANELS[which](catalog.get(name), options, precision=precision)
    if weights:
        panel.load(weights(panel.shapes(), panel.aliases()))
    return panel


# the model: numbers measured with the reference

CHECK = {"vocab_size": 50, "hidden": 16, "layers": 2, "heads": 2, "positions": 16, "dropout": 0.0}
IDS = np.array([[1, 5, 7, 9, 11, 3]])
EXPECTED = {  # loss, and the first logits behind the last token
    "gpt2": (4.4115910530, [0.8414481966, -0.1962069147, -0.9211101126]),
    "gpt1": (4.4841642380, [0.9029821053, -0.1368621211, -0.9585494578]),
}


def waves(shapes, aliases):
    """The fill of the check: a sine per tensor, of tied names the last in order."""
    found = {}
    for name in sorted(shapes):
        n = np.arange(int(np.prod(shapes[name]))).reshape(shapes[name])
        found[name] = 0.08 * np.sin(0.7 * n + 0.13 * len(name)) + (".ln_" in name and name.endswith("weight"))
    return found | {name: found[first] for name, first in aliases.items()}


@MODELS
@BOTH
def test_check_values_of_the_reference(which, name):
    panel = built(which, name, CHECK, weights=waves)
    loss, logits = EXPECTED[name]
    np.testing.assert_allclose(panel.outputs({"input_ids": IDS})["logits"][0, -1, :3], logits, rtol=0, atol=1e-9)
    # the reference's loss is in single precision
    np.testing.assert_allclose(panel.losses({"input_ids": IDS}, {"labels": IDS})["total"], loss, rtol=0, atol=6e-7)


@BOTH
def test_greedy_continuation_of_the_check(which):
    model = built(which, "gpt2_step", CHECK, weights=waves).model
    found = DECODING[which].generate(model, TENSOR[which](IDS), 6)
    np.testing.assert_array_equal(np.asarray(found), [[*IDS[0], 41, 9, 1, 18, 9, 9]])


@MODELS
@BOTH
def test_greedy_continuation_of_the_fingerprint(which, name):
    expected = fingerprints.load(f"hf_{name}_small_lm")
    options = {**SMALL_REFERENCE, "dropout": 0.0}
    model = built(which, f"{name}_step", options, "float32").model
    start = np.reshape(expected["inputs"]["input_ids"]["data"], (2, 12))[:1].astype(np.int64)
    found = DECODING[which].generate(model, TENSOR[which](start), 6)
    np.testing.assert_array_equal(np.asarray(found)[0], expected["outputs"]["greedy"]["values"])


@pytest.mark.slow
@MODELS
def test_published_model_gives_the_references_numbers(name):
    number = int(name[-1])
    reference = hugging_face(f"hf_{name}_base_lm", number, layers=3)
    modules = dict(reference.modules)
    modules["hidden.3"] = "transformer.ln_f" if number == 2 else "transformer.h.11"
    reference = type(reference)(**{**vars(reference), "options": {}, "modules": modules})
    level = Proof(Case(name, tokens(), references=[reference])).level("reference")
    assert level.applies and level.holds, level.broken()[:12]


@BOTH
@pytest.mark.parametrize("name", ["gpt1", "gpt2"])
def test_initial_deviations(which, name):
    model = built(which, name, {**SMALL_GPT, "hidden": 64, "positions": 64, "layers": 2}, weights=None)
    state = model.state()
    into = 0.02 / 2 if name == "gpt2" else 0.02  # 1 / sqrt(2 * 2 layers) of the matrices in the residual sum
    words, places = ("wte", "wpe") if name == "gpt2" else ("tokens_embed", "positions_embed")
    for tensor, std in (
        (f"{words}.weight", 0.02),
        (f"{places}.weight", 0.01 if name == "gpt2" else 0.02),
        ("h.1.attn.c_attn.weight", 0.02),
        ("h.1.attn.c_proj.weight", into),
        ("h.1.mlp.c_fc.weight", 0.02),
        ("h.1.mlp.c_proj.weight", into),
    ):
        np.testing.assert_allclose(state[f"transformer.{tensor}"].std(), std, rtol=0.1, err_msg=tensor)
    assert not state["transformer.h.1.mlp.c_fc.bias"].any()


def test_options_that_do_not_fit_are_named():
    for module in (tf_gpt, torch_gpt):
        with pytest.raises(ValueError, match=r"head='lmm' must be one of .*'step'"):
            module.gpt2("lmm", **CHECK)
        with pytest.raises(ValueError, match="hidden=10 must be a multiple of heads=4"):
            module.gpt2(**{**CHECK, "hidden": 10, "heads": 4})


@BOTH
def test_text_longer_than_the_positions_is_refused(which):
    panel = built(which, "gpt2", CHECK)
    with pytest.raises(ValueError, match="17 tokens, and the model has 16 positions"):
        panel.outputs({"input_ids": np.ones((1, 17), np.int64)})


@MODELS
@BOTH
def test_output_layer_stays_tied_in_training(which, name):
    panel = built(which, name, CHECK)
    first = next(iter(panel.shapes()))
    before = panel.state()[first]
    panel.train({"input_ids": IDS}, {"labels": IDS}, 0.5, steps=1)
    after = panel.state()
    assert np.abs(after[first] - before).max() > 0
    np.testing.assert_array_equal(after[first], after["lm_head.weight"])
    assert panel.aliases() == {"lm_head.weight": first}


# the cache


@MODELS
@BOTH
@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_cached_tokens_equal_full_recomputation(which, name, precision, bound):
    ids = np.random.default_rng(0).integers(0, 50, (2, 11))
    full = built(which, name, SMALL_GPT, precision).outputs({"input_ids": ids})["logits"]
    step = built(which, f"{name}_step", SMALL_GPT, precision)
    rng = np.random.default_rng(1)  # what is behind the length is not read
    cache = {key: rng.standard_normal((2, 2, 2, 16, 8)) for key in ("past_keys", "past_values")}
    start = 0
    for size in (4, 1, 1, 3, 1, 1):
        given = {"input_ids": ids[:, start : start + size], "length": np.array([start]), **cache}
        found = step.outputs(given)
        start += size
        assert onnx_file.relative(found["logits"], full[:, start - 1]) <= bound, start
        cache = {"past_keys": found["keys"], "past_values": found["values"]}
    assert start == ids.shape[1]


@BOTH
def test_a_chunk_gives_the_logits_of_all_its_tokens(which):
    ids = np.random.default_rng(0).integers(0, 50, (2, 11))
    full = built(which, "gpt2", SMALL_GPT).outputs({"input_ids": ids})["logits"]
    chunk, start = built(which, "gpt2_chunk", SMALL_GPT), 0
    cache = {key: np.zeros((2, 2, 2, 16, 8)) for key in ("past_keys", "past_values")}
    for size in (4, 1, 6):
        found = chunk.outputs({"input_ids": ids[:, start : start + size], "length": np.array([start]), **cache})
        assert onnx_file.relative(found["logits"], full[:, start : start + size]) <= 1e-12
        start, cache = start + size, {"past_keys": found["keys"], "past_values": found["values"]}


@pytest.fixture(scope="module")
def stepping(tmp_path_factory):
    """Functions from one step's inputs to its outputs, of four engines."""
    folder, found = tmp_path_factory.mktemp("gpt"), {}
    options = {**SMALL_GPT, "layers": 1}
    cache = np.random.default_rng(0).standard_normal((2, 1, 2, 16, 8)).astype(np.float32)
    example = {
        "input_ids": np.ones((2, 3), np.int64),
        "length": np.array([5]),
        "past_keys": cache,
        "past_values": cache,
    }
    for which, panel in enumerate(PANELS):
        model = built(which, "gpt2_step", options, "float32")
        found[panel.package] = model.outputs
        path = model.export(folder / f"{which}.onnx", example, None, {"input_ids": ("N", "T"), "length": (None,)})
        session = onnx_file.session(path, threads=1)
        found[f"{panel.package} ONNX"] = lambda inputs, session=session: onnx_file.run(session, inputs)
    return found


def test_four_engines_write_the_same_text(stepping):
    texts = {}
    for engine, step in stepping.items():
        ids, new = np.array([[7, 3, 30]]), np.array([[7, 3, 30]])
        cache = {name: np.zeros((1, 1, 2, 16, 8), np.float32) for name in ("past_keys", "past_values")}
        for _ in range(10):
            outputs = step({"input_ids": new, "length": np.array([ids.shape[1] - new.shape[1]]), **cache})
            cache = {"past_keys": outputs["keys"], "past_values": outputs["values"]}
            new = outputs["logits"].argmax(-1)[:, None]
            ids = np.concatenate([ids, new], 1)
        texts[engine] = ids[0].tolist()
    assert len({tuple(ids) for ids in texts.values()}) == 1 and len(set(texts["torch_impl"])) > 3, texts


# how tokens are chosen


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def distribution(logits, previous, penalty=1.0, temperature=1.0, top_k=0, top_p=1.0):
    """One row after the other, token by token."""
    found = []
    for row, seen in zip(logits, previous, strict=True):
        row = row.copy()
        for token in set(seen.tolist()):
            row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        row = row / temperature
        order = np.argsort(-row, kind="stable")[: top_k or None]
        p, kept, total = softmax(row[order]), [], 0.0
        for token, share in zip(order, p, strict=True):
            kept.append(token)
            total += share
            if total > top_p:
                break
        found.append(np.zeros(len(row)))
        found[-1][kept] = softmax(row[kept])
    return np.array(found)


OPTIONS = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 3.0},
    "one": {"top_k": 1},
    "three": {"top_k": 3},
    "all": {"top_k": 20},
    "half": {"top_p": 0.5},
    "almost none": {"top_p": 0.0},
    "penalty": {"penalty": 1.7},
    "together": {"penalty": 0.8, "temperature": 0.9, "top_k": 9, "top_p": 0.75},
}


@BOTH
@pytest.mark.parametrize("name", OPTIONS)
def test_distribution(which, name):
    rng = np.random.default_rng(0)
    logits, previous = np.round(2 * rng.standard_normal((4, 20)), 1), rng.integers(0, 20, (4, 5))
    found = DECODING[which].distribution(TENSOR[which](logits), TENSOR[which](previous), **OPTIONS[name])
    expected = distribution(logits, previous, **OPTIONS[name])
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-15)
    assert (expected > 0).sum(1).max() < 20 or name in ("plain", "cold", "hot", "all", "penalty")


@BOTH
def test_first_token_beyond_top_p_is_kept(which):
    logits = np.log([[0.1, 0.5, 0.15, 0.25]])
    for top_p, kept in ((0.4, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        p = np.asarray(DECODING[which].distribution(TENSOR[which](logits), top_p=top_p))
        assert np.flatnonzero(p[0]).tolist() == kept, top_p


@BOTH
def test_draws_follow_the_distribution(which):
    p = np.array([0.1, 0.0, 0.4, 0.1, 0.4])
    uniform = (np.arange(1000) + 0.5) / 1000
    found = DECODING[which].draw(TENSOR[which](np.tile(p, (1000, 1))), TENSOR[which](uniform))
    np.testing.assert_array_equal(np.bincount(np.asarray(found), minlength=5) / 1000, p)
    assert np.asarray(found)[[0, 399, 400, 799, 800, 899, 900]].tolist() == [2, 2, 4, 4, 0, 0, 3], "most probable first"
    halves = TENSOR[which](np.full((2, 2), 0.5))
    border = DECODING[which].draw(halves, TENSOR[which](np.array([0.5, np.nextafter(0.5, 0)])))
    assert np.asarray(border).tolist() == [1, 0]
    first = DECODING[which].draw(TENSOR[which](p[None]), TENSOR[which](np.array([0.0])))
    last = DECODING[which].draw(TENSOR[which](p[None]), TENSOR[which](np.array([np.nextafter(1.0, 0)])))
    assert [int(first[0]), int(last[0])] == [2, 3]
    assert int(DECODING[which].draw(TENSOR[which](p[None]))[0]) == 2


def test_both_panels_draw_the_same_text():
    options = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "penalty": 1.2}
    start, uniform = np.array([[7, 3], [1, 1]]), np.random.default_rng(2).uniform(size=(2, 12))
    texts = []
    for which in (0, 1):
        model = built(which, "gpt2_step", SMALL_GPT).model
        found = DECODING[which].generate(model, TENSOR[which](start), 12, TENSOR[which](uniform), **options)
        texts.append(np.asarray(found))
    np.testing.assert_array_equal(*texts)
    assert texts[0].shape == (2, 14) and (texts[0][0] != texts[0][1]).any()


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 and penalty=1.0 must be more than 0"),
        ({"penalty": -1.0}, "penalty=-1.0 must be more than 0"),
        ({"top_k": 21}, "top_k=21 must be 0 to 20"),
        ({"top_k": -1}, "top_k=-1 must be 0 to 20"),
        ({"top_p": 1.5}, "top_p=1.5 0 to 1"),
        ({"penalty": 2.0}, "penalty=2.0 needs previous"),
    ],
)
def test_bad_options_are_refused(which, options, message):
    with pytest.raises(ValueError, match=message):
        DECODING[which].distribution(TENSOR[which](np.zeros((1, 20))), **options)


@BOTH
def test_texts_that_cannot_be_continued(which):
    model = built(which, "gpt2_step", CHECK).model
    generate, tensor = DECODING[which].generate, TENSOR[which]
    assert generate(model, tensor(np.ones((1, 10), np.int64)), 7).shape == (1, 17), "the last token is not read"
    with pytest.raises(ValueError, match="10 tokens and 8 new ones exceed the model's 16 positions"):
        generate(model, tensor(np.ones((1, 10), np.int64)), 8)
    with pytest.raises(ValueError, match="input_ids is empty"):
        generate(model, tensor(np.ones((1, 0), np.int64)), 1)


# OpenAI's files


def test_official_checkpoint_is_renamed():
    """The public file lacks the first part of the names, and has the masks among its tensors."""
    entry = catalog.get("gpt2").checkpoint("openai")
    panel = built(1, "gpt2", CHECK)
    tensors = panel.state()
    theirs = {name.removeprefix("transformer."): array for name, array in tensors.items() if name != "lm_head.weight"}
    masks = {f"h.{i}.attn.{kind}": np.ones((1, 1, 4, 4)) for i in range(2) for kind in ("bias", "masked_bias")}
    found = store.rename({**theirs, **masks}, entry.rename)
    assert found.keys() | {"lm_head.weight"} == tensors.keys()
    assert store.rename(tensors, entry.rename).keys() == tensors.keys(), "names that are whole stay as they are"


@BOTH
def test_tensorflow_1_checkpoint(which):
    panel = built(which, "gpt2", CHECK)
    values = panel.state()
    theirs = {}
    for name, array in values.items():
        parts = name.split(".")[1:]
        if name == "lm_head.weight":
            continue
        if parts[0] == "h":
            parts[:2] = [f"h{parts[1]}"]
        if parts[0] in ("wte", "wpe"):
            parts.pop()
        else:
            norm = parts[-2].startswith("ln_")
            parts[-1] = "b" if parts[-1] == "bias" else "g" if norm else "w"
        theirs["/".join(["model", *parts])] = array[None] if parts[-1] == "w" else array
    assert {"model/wte", "model/h0/attn/c_attn/w", "model/h1/ln_2/g", "model/ln_f/b"} <= theirs.keys()
    found = bpe.from_openai(theirs)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    panel.load(found)
    with pytest.raises(TextError, match="model/wte is missing"):
        bpe.from_openai({"bert/x": np.zeros(3)})
