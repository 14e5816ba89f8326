"""Translation: steps with a cache, greedy and beam search, files of both frameworks."""

import numpy as np
import pytest
import torch

import tf_impl.nlp.beam_search as tf_search
import tf_impl.nlp.transformer as tf_transformer
import torch_impl.nlp.beam_search as torch_search
import torch_impl.nlp.transformer as torch_transformer
from parity_tests.cases.nlp.transformer import CASES, SMALL_TRANSFORMER, sentences
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.text_models import BOTH, TENSOR, kept, transformer
from weights import catalog, onnx_file
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")
MODULES = (tf_transformer, torch_transformer)
SEARCHES = (tf_search, torch_search)
EOS, PAD = 2, 1


@BOTH
@pytest.mark.parametrize(
    "pos, normalize_before",
    [("paper", False), ("t2t", False), ("fairseq", False), ("marian", False), ("paper", True)],
)
def test_cached_steps_are_the_whole_sentence(pos, normalize_before, which):
    panel = kept(which, normalize_before=normalize_before, pos=pos, positions=16)
    inputs = sentences()(np.random.default_rng(1), 2)
    inputs["decoder_input_ids"][1, -1] = 8  # no padding
    expected, given = panel.outputs(inputs)["logits"], panel.tensors(inputs)
    memory = panel.model.encode(given["input_ids"], given["attention_mask"])
    noise = TENSOR[which](np.random.default_rng(2).standard_normal((2, 2, 2, 9, 8)))  # what is not yet written
    keys = values = noise
    for i in range(6):
        words, place = given["decoder_input_ids"][:, i : i + 1], TENSOR[which](np.full(2, i))
        cache = (given["attention_mask"], memory["memory_key"], memory["memory_value"], keys, values)
        found = panel.model.step(words, place, *cache)
        keys, values = found["present_key"], found["present_value"]
        logits = found["logits"].detach() if which else found["logits"]
        np.testing.assert_allclose(logits, expected[:, i], rtol=0, atol=1e-13)


@BOTH
@pytest.mark.parametrize("beams", [1, 3])
def test_translation_with_the_cache_is_that_of_whole_sentences(beams, which):
    """A step that decodes all words anew gives the same hypotheses."""
    panel = transformer(which, pos="fairseq")
    # seeded weights would end nowhere
    bias = np.zeros((1, 40))
    bias[0, EOS] = 0.5 if beams == 1 else 1.5
    panel.load({"final_logits_bias": bias}, strict=False)
    inputs = panel.tensors(sentences()(np.random.default_rng(1), 3))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    found = MODULES[which].translate(panel.model, ids, mask, beams, max_length=7)

    def step(words, position, state):
        read = np.concatenate([np.asarray(state["read"]), np.asarray(words)[:, None]], 1)
        logits = panel.model(state["ids"], state["mask"], TENSOR[which](read))
        logits = np.asarray(logits.detach() if which else logits)[:, -1]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return TENSOR[which](log_p), {**state, "read": TENSOR[which](read)}

    state = {"ids": ids, "mask": mask, "read": TENSOR[which](np.zeros((3, 0), np.int64))}
    start = TENSOR[which](np.full(3, EOS))
    search = SEARCHES[which]
    if beams == 1:
        expected = search.greedy_search(step, state, start, 7, EOS, PAD)
    else:
        expected = search.beam_search(step, state, start, 7, EOS, PAD, beams)
    np.testing.assert_array_equal(found["words"], expected["words"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-12)
    assert (np.asarray(found["words"]) == EOS).any() and (np.asarray(found["words"]) > EOS).any()
    panel.load({"final_logits_bias": 40 * bias}, strict=False)  # ends at once
    default = MODULES[which].translate(panel.model, ids[:1], mask[:1], beams)
    assert tuple(default["words"].shape) == (1, beams, 7 + 50)


def test_files_of_both_frameworks_translate_together(tmp_path):
    """The encoder is TensorFlow's file, the step of the decoder PyTorch's, in ONNX Runtime, at different lengths."""
    options, dtype = {**SMALL_TRANSFORMER, "layers": 1}, "float32"
    cases = {case.model: case for case in CASES}
    files, weights = {}, None
    for model, panel in (("transformer_base_encode", TensorFlow), ("transformer_base_step", PyTorch)):
        inputs = cases[model].inputs(np.random.default_rng(0), 2)
        inputs = {n: x[:, :1] if n[:4] in ("memo", "past") else x for n, x in inputs.items()}
        built = panel(catalog.get(model), options, precision=dtype)
        weights = weights or seeded(built.shapes(), built.aliases())
        built.load(weights, strict=False)
        path = built.export(tmp_path / f"{model}.onnx", inputs, None, cases[model].dynamic)
        files[model] = onnx_file.session(path, threads=1)
    source = sentences(source=9)(np.random.default_rng(5), 3)
    mask = {"attention_mask": source["attention_mask"]}
    found = onnx_file.run(files["transformer_base_encode"], {"input_ids": source["input_ids"], **mask})
    memory = {name: found[name] for name in ("memory_key", "memory_value")}
    keys = values = np.zeros((3, 1, 2, 8, 8), np.float32)
    words, read = np.full(3, EOS), []
    for i in range(8):
        given = {"decoder_input_ids": words[:, None], "position": np.full(3, i), "past_key": keys, "past_value": values}
        found = onnx_file.run(files["transformer_base_step"], {**given, **mask, **memory})
        keys, values, words = found["present_key"], found["present_value"], found["logits"].argmax(-1)
        read.append(words)
    model = built.model
    ids, mask = (torch.from_numpy(source[name]) for name in ("input_ids", "attention_mask"))
    expected = torch_transformer.translate(model, ids, mask, beams=1, max_length=8)["words"][:, 0].numpy()
    ended = np.cumsum(expected == EOS, 1) - (expected == EOS) > 0
    np.testing.assert_array_equal(np.where(ended, PAD, np.stack(read, 1)), expected)


@BOTH
def test_more_words_than_the_table_has_rows_are_refused(which):
    panel = kept(which, normalize_before=False, pos="marian", positions=16)
    ids = TENSOR[which](np.full((1, 17), 5))
    with pytest.raises(ValueError, match="17 words are more than positions=16"):
        panel.model.encode(ids, ids)
    with pytest.raises(ValueError, match="max_length=66 must be at most positions=16"):
        MODULES[which].translate(panel.model, ids[:, :16], ids[:, :16])


def test_both_panels_translate_alike():
    found = []
    for which in (0, 1):
        panel = kept(which)
        inputs = panel.tensors(sentences()(np.random.default_rng(4), 3))
        found.append(MODULES[which].translate(panel.model, inputs["input_ids"], inputs["attention_mask"], max_length=9))
    np.testing.assert_array_equal(found[0]["words"], found[1]["words"])
    np.testing.assert_allclose(found[0]["scores"], found[1]["scores"], rtol=1e-12)
