"""The Transformer: the numbers of the paper and of the references, the cache, greedy and beam search."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.positions as tf_positions
import tf_impl.nlp._transformer_layers as tf_layers
import tf_impl.nlp.beam_search as tf_search
import tf_impl.nlp.transformer as tf_transformer
import torch_impl.layers.positions as torch_positions
import torch_impl.nlp._transformer_layers as torch_layers
import torch_impl.nlp.beam_search as torch_search
import torch_impl.nlp.transformer as torch_transformer
from parity_tests.cases.nlp.transformer import CASES, SMALL_TRANSFORMER, sentences
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, fairseq, onnx_file
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")

PANELS = (TensorFlow, PyTorch)
MODULES = (tf_transformer, torch_transformer)
POSITIONS = (tf_positions, torch_positions)
SEARCHES = (tf_search, torch_search)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
EOS, PAD = 2, 1


@functools.cache
def kept(which, **options):
    """The model of :func:`built` for tests that do not change it."""
    return built(which, **options)


def built(which, **options):
    """A small model with seeded weights in float64."""
    panel = PANELS[which](catalog.get("transformer_base"), {**SMALL_TRANSFORMER, **options})
    panel.load(seeded(panel.shapes(), panel.aliases()), strict=False)
    return panel


# positions


def rows(which, places, dim, style):
    return np.asarray(POSITIONS[which].sinusoids(TENSOR[which](np.asarray(places, np.float64)), dim, style))


@BOTH
def test_sinusoids_of_the_paper_and_of_tensor2tensor(which):
    paper = [0.14112, -0.98999, 0.29552, 0.95534, 0.0299955, 0.99955, 0.00299999, 0.9999955]
    t2t = [0.14112, 0.138798101, 0.00646325907, 0.0003, -0.98999, 0.990320699, 0.999979113, 0.999999955]
    np.testing.assert_allclose(rows(which, 3, 8, "paper"), paper, rtol=0, atol=4e-6)
    np.testing.assert_allclose(rows(which, 3, 8, "t2t"), t2t, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(rows(which, 3, 8, "fairseq"), rows(which, 3, 8, "t2t"))
    halves = rows(which, [[3, 7]], 8, "marian")[0]
    np.testing.assert_array_equal(halves[0], np.r_[rows(which, 3, 8, "paper")[::2], rows(which, 3, 8, "paper")[1::2]])


@BOTH
def test_fairseq_counts_words_from_two_and_gives_padding_zeros(which):
    layer = (tf_layers, torch_layers)[which].SinusoidalPositions(8, "fairseq", 0)
    ids = np.array([[5, 6, 7, 1, 1], [1, 1, 5, 6, 7]])
    found = np.asarray(layer(TENSOR[which](ids), TENSOR[which](np.zeros(1))))
    expected = rows(which, [2, 3, 4], 8, "fairseq")
    np.testing.assert_allclose(found[0, :3], expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[1, 2:], expected, rtol=0, atol=1e-15)
    assert not found[0, 3:].any() and not found[1, :2].any()
    later = layer(TENSOR[which](ids[:, 2:3]), TENSOR[which](np.zeros(1)), TENSOR[which](np.array([2, 0])))
    np.testing.assert_allclose(later, rows(which, [[4], [2]], 8, "fairseq"), rtol=0, atol=1e-15)


def test_unknown_style_and_odd_width_are_named():
    for module in POSITIONS:
        with pytest.raises(ValueError, match="style='sine' must be one of paper, t2t, fairseq, marian"):
            module.sinusoids(None, 8, "sine")
        with pytest.raises(ValueError, match="dim=7 must be even"):
            module.sinusoids(None, 7)
    for module in MODULES:
        with pytest.raises(ValueError, match="pos='sine' must be one of"):
            module.transformer_base(**{**SMALL_TRANSFORMER, "pos": "sine"})
        with pytest.raises(ValueError, match="dim=16 must be a multiple of heads=3"):
            module.transformer_base(**{**SMALL_TRANSFORMER, "heads": 3})
        with pytest.raises(ValueError, match="tying='both' must be one of all, decoder, none"):
            module.transformer_base(**{**SMALL_TRANSFORMER, "tying": "both"})
        with pytest.raises(ValueError, match="source_vocab_size=41 must be vocab_size=40 where tying='all'"):
            module.transformer_base(**{**SMALL_TRANSFORMER, "source_vocab_size": 41})
        with pytest.raises(ValueError, match="head='decode' must be one of"):
            module.transformer_base("decode")
        with pytest.raises(ValueError, match="form='none' must be one of fairseq, t2t, torch"):
            module.TransformerCriterion(form="none")


# criterion and schedule

LOGITS = np.sin(1.1 * np.arange(20) + 0.11).reshape(1, 4, 5)


def loss(which, logits, labels, **options):
    criterion = MODULES[which].TransformerCriterion(**options)
    return {k: float(v) for k, v in criterion(TENSOR[which](logits), {"labels": TENSOR[which](labels)}).items()}


@BOTH
def test_label_smoothing_is_fairseqs_by_default(which):
    found = loss(which, LOGITS, np.arange(4)[None], padding=-1)
    assert 4 * found["total"] == pytest.approx(5.8187091720, abs=1e-9)
    # the second label is fairseq's padding
    counted = loss(which, LOGITS[:, [0, 2, 3]], np.array([[0, 2, 3]]))
    assert loss(which, LOGITS, np.arange(4)[None]) == pytest.approx(counted, rel=1e-12)


@BOTH
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_label_smoothing_of_pytorch(which, eps):
    labels = np.array([[0, 2, 1, 4]])
    found = loss(which, LOGITS, labels, label_smoothing=eps, form="torch")
    given = torch.tensor(LOGITS[0]), torch.tensor(labels[0])
    expected = torch.nn.functional.cross_entropy(*given, ignore_index=PAD, label_smoothing=eps)
    plain = torch.nn.functional.cross_entropy(*given, ignore_index=PAD)
    assert found == pytest.approx({"nll": float(plain), "label_smoothed": float(expected), "total": float(expected)})


@BOTH
def test_tensor2tensors_loss_is_a_divergence_from_the_smoothed_target(which):
    target = np.full((1, 1, 5), 0.1 / 4)
    target[..., 3] = 0.9
    assert loss(which, np.log(target), np.array([[3]]), form="t2t")["total"] == pytest.approx(0, abs=1e-12)
    log_p = LOGITS[0, 0] - np.log(np.exp(LOGITS[0, 0]).sum())
    expected = (target[0, 0] * (np.log(target[0, 0]) - log_p)).sum()
    found = loss(which, LOGITS[:, :1], np.array([[3]]), form="t2t")["total"]
    assert found == pytest.approx(expected, rel=1e-12)
    assert loss(which, LOGITS, np.arange(4)[None], form="t2t", label_smoothing=0.0)["total"] > 0


def test_learning_rate_rises_and_falls():
    for module in MODULES:
        rate = module.inverse_sqrt_warmup
        assert rate(1) == pytest.approx(512**-0.5 * 4000**-1.5, rel=1e-14)
        assert rate(4000) == pytest.approx((512 * 4000) ** -0.5, rel=1e-14)
        assert rate(16000) == pytest.approx(rate(4000) / 2, rel=1e-14)
        assert rate(100, 1024, 200, 2.0) == pytest.approx(2 / 32 * 100 * 200**-1.5, rel=1e-14)


@BOTH
def test_trainer_takes_the_first_step_of_adam(which):
    """The first update is the rate times the sign of the gradient."""
    panel = built(which)
    inputs, labels = sentences()(np.random.default_rng(0), 2), np.full((2, 6), 5)
    before = panel.state()
    trainer = panel.trainer(panel.model, warmup=4, factor=2.0)
    trainer.step(panel.tensors(inputs), panel.tensors({"labels": labels}))
    moved = panel.state()["model.decoder.layers.1.fc2.weight"] - before["model.decoder.layers.1.fc2.weight"]
    assert np.abs(moved).max() == pytest.approx(2 / 4 * 4**-1.5, rel=1e-4)


# the model


@pytest.mark.parametrize(("name", "count"), [("base", 44_138_496), ("big", 176_357_376), ("iwslt_de_en", 31_543_296)])
def test_published_sizes_without_the_embedding(name, count):
    builder = getattr(torch_transformer, f"transformer_{name}")
    with torch.device("meta"):
        model = builder()
        frozen = sum(p.numel() for p in builder(pos="marian").parameters() if not p.requires_grad)
    dim = model.dim
    assert sum(p.numel() for p in model.parameters()) == count + 37_000 * dim
    assert frozen == 2 * 1024 * dim
    if name == "base":
        assert sum(p.numel() for p in torch.nn.Transformer(device="meta").parameters()) == count + 4 * dim


def pytorchs(state, dim=16):
    """Our tensors under the names of ``torch.nn.Transformer``."""
    found = {}
    for half in ("encoder", "decoder"):
        for i in range(2):
            ours, theirs = f"model.{half}.layers.{i}", f"{half}.layers.{i}"
            attentions = {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}
            norms = {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}
            if half == "decoder":
                norms = {
                    "self_attn_layer_norm": "norm1",
                    "encoder_attn_layer_norm": "norm2",
                    "final_layer_norm": "norm3",
                }
            for leaf in ("weight", "bias"):
                for mine, its in attentions.items():
                    if half == "encoder" and mine == "encoder_attn":
                        continue
                    packed = [state[f"{ours}.{mine}.{letter}_proj.{leaf}"] for letter in "qkv"]
                    found[f"{theirs}.{its}.in_proj_{leaf}"] = np.concatenate(packed)
                    found[f"{theirs}.{its}.out_proj.{leaf}"] = state[f"{ours}.{mine}.out_proj.{leaf}"]
                for mine, its in {**norms, "fc1": "linear1", "fc2": "linear2"}.items():
                    found[f"{theirs}.{its}.{leaf}"] = state[f"{ours}.{mine}.{leaf}"]
        for leaf in ("weight", "bias"):
            found[f"{half}.norm.{leaf}"] = state[f"model.{half}.layer_norm.{leaf}"]
    return {name: torch.from_numpy(value) for name, value in found.items()}


@BOTH
def test_norm_before_each_part_is_pytorchs_transformer(which):
    panel = kept(which, normalize_before=True, pos="paper", positions=16)
    inputs = sentences()(np.random.default_rng(1), 2)
    state = panel.state()
    theirs = torch.nn.Transformer(16, 2, 2, 2, 32, 0.0, batch_first=True, norm_first=True).double().eval()
    theirs.load_state_dict(pytorchs(state))
    words = state["model.shared.weight"]
    source, target = (
        torch.from_numpy(words[inputs[name]] * 4 + rows(1, np.arange(inputs[name].shape[1]), 16, "paper"))
        for name in ("input_ids", "decoder_input_ids")
    )
    padding = torch.from_numpy(inputs["attention_mask"] == 0)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(6).double()
    hidden = theirs(source, target, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    np.testing.assert_allclose(panel.outputs(inputs)["logits"], hidden.detach() @ words.T, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("pos", ["paper", "t2t", "fairseq", "marian"])
def test_padding_and_later_words_change_nothing(pos, which):
    panel = kept(which, normalize_before=False, pos=pos, positions=16)
    inputs = sentences()(np.random.default_rng(1), 2)
    expected = panel.outputs(inputs)["logits"]
    longer = {
        name: np.pad(x, ((0, 0), (0, 3)), constant_values=int(name != "attention_mask")) for name, x in inputs.items()
    }
    np.testing.assert_allclose(panel.outputs(longer)["logits"][:, :6], expected, rtol=0, atol=1e-13)
    other = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"].copy()}
    other["decoder_input_ids"][:, 3:] = 9
    found = panel.outputs(other)["logits"]
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=0, atol=1e-13)
    assert np.abs(found[:, 3:] - expected[:, 3:]).max() > 1e-3


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
def test_tying(which):
    first = "model.shared.weight"
    tied = {f"model.{half}.embed_tokens.weight" for half in ("encoder", "decoder")} | {"lm_head.weight"}
    assert kept(which).aliases() == {name: first for name in tied}
    panel = built(which, tying="decoder", source_vocab_size=50, layers=1)
    assert panel.aliases() == {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    assert panel.shapes()["model.encoder.embed_tokens.weight"] == (50, 16)
    assert built(which, tying="none", layers=1).aliases() == {}


@BOTH
def test_initial_values(which):
    state = PANELS[which](
        catalog.get("transformer_base"),
        {**SMALL_TRANSFORMER, "dim": 64, "vocab_size": 500, "layers": 1},
    ).state()
    words = state["model.shared.weight"]
    assert not words[PAD].any() and abs(np.delete(words, PAD, 0).std() - 1 / 8) < 2e-3
    layer = "model.encoder.layers.0"
    for name, bound in (
        (f"{layer}.self_attn.q_proj.weight", (6 / 128) ** 0.5 / 2**0.5),
        (f"{layer}.self_attn.out_proj.weight", (6 / 128) ** 0.5),
        (f"{layer}.fc1.weight", (6 / 96) ** 0.5),
    ):
        assert 0.99 * bound < np.abs(state[name]).max() <= bound, name
    assert not state[f"{layer}.self_attn.k_proj.bias"].any() and not state[f"{layer}.fc2.bias"].any()


@BOTH
@pytest.mark.parametrize("old", [False, True])
def test_fairseq_checkpoints_load(old, which):
    panel = kept(which)
    values = panel.state()
    theirs = {"encoder.version": np.ones(1), "encoder.embed_positions._float_tensor": np.ones(1)}
    for name, value in values.items():
        if name.startswith("model.") and not name.startswith("model.shared"):
            theirs[name.removeprefix("model.")] = value
    if old:
        for name in [name for name in theirs if ".q_proj." in name]:
            parts = [theirs.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
            theirs[name.replace(".q_proj.", ".in_proj_")] = np.concatenate(parts)
        for half, norms in fairseq.NORMS.items():
            for i, leaf in itertools.product(range(2), ("weight", "bias")):
                for j, norm in enumerate(norms):
                    value = theirs.pop(f"{half}.layers.{i}.{norm}.{leaf}")
                    theirs[f"{half}.layers.{i}.layer_norms.{j}.{leaf}"] = value
    else:
        theirs["decoder.output_projection.weight"] = theirs["decoder.embed_tokens.weight"]
    found = fairseq.marian_names(theirs)
    panel.load(found, strict=True)
    assert found.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)


# translation


@BOTH
@pytest.mark.parametrize("beams", [1, 3])
def test_translation_with_the_cache_is_that_of_whole_sentences(beams, which):
    """A step that decodes all words anew gives the same hypotheses."""
    panel = built(which, pos="fairseq")
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
    """The encoder is TensorFlow's file, the step of the decoder PyTorch's, in ONNX Runtime, at lengths of their own."""
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
