"""The Transformer: published sizes, PyTorch's own, words that come later, tied tensors, and how it starts."""

import numpy as np
import pytest
import torch

import torch_impl.nlp.transformer as torch_transformer
from parity_tests.cases.nlp.transformer import SMALL_TRANSFORMER, sentences
from parity_tests.test_positions import rows
from parity_tests.text_models import BOTH, PANELS, kept, transformer
from weights import catalog

pytestmark = pytest.mark.usefixtures("double_precision")

PAD = 1


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
def test_later_words_change_nothing(pos, which):
    panel = kept(which, normalize_before=False, pos=pos, positions=16)
    inputs = sentences()(np.random.default_rng(1), 2)
    expected = panel.outputs(inputs)["logits"]
    other = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"].copy()}
    other["decoder_input_ids"][:, 3:] = 9
    found = panel.outputs(other)["logits"]
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=0, atol=1e-13)
    assert np.abs(found[:, 3:] - expected[:, 3:]).max() > 1e-3


@BOTH
def test_tying(which):
    first = "model.shared.weight"
    tied = {f"model.{half}.embed_tokens.weight" for half in ("encoder", "decoder")} | {"lm_head.weight"}
    assert kept(which).aliases() == {name: first for name in tied}
    panel = transformer(which, tying="decoder", source_vocab_size=50, layers=1)
    assert panel.aliases() == {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    assert panel.shapes()["model.encoder.embed_tokens.weight"] == (50, 16)
    assert transformer(which, tying="none", layers=1).aliases() == {}


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
