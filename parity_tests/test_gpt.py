"""GPT-1 and GPT-2: greedy texts of the references, how they start, the cache, and texts in four engines."""

import numpy as np
import pytest

import tf_impl.nlp.gpt_decoding as tf_decoding
import torch_impl.nlp.gpt_decoding as torch_decoding
from parity_tests.cases.nlp.gpt import SMALL_GPT, SMALL_REFERENCE, hugging_face, tokens
from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case
from parity_tests.harness.measure import Proof
from parity_tests.text_models import BOTH, GPT_IDS, PANELS, TENSOR, built, waves
from weights import onnx_file

MODELS = pytest.mark.parametrize("name", ["gpt1", "gpt2"])
DECODING = (tf_decoding, torch_decoding)


@BOTH
def test_greedy_continuation_of_the_check(which):
    model = built(which, "gpt2_step", SMALL_GPT, weights=waves).model
    found = DECODING[which].generate(model, TENSOR[which](GPT_IDS), 6)
    np.testing.assert_array_equal(np.asarray(found), [[*GPT_IDS[0], 41, 9, 1, 18, 9, 9]])


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


@MODELS
@BOTH
@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
def test_cached_tokens_equal_full_recomputation(which, name, precision, bound):
    ids = np.random.default_rng(0).integers(0, 50, (2, 11))
    full = built(which, name, SMALL_GPT, precision).outputs({"input_ids": ids})["logits"]
    step = built(which, f"{name}_step", SMALL_GPT, precision)
    rng = np.random.default_rng(1)  # what comes after the length is not read
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
