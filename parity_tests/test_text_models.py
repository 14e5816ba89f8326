"""What text models have in common: check values of the references, tied tensors, padding, and refused options."""

import importlib

import numpy as np
import pytest

from parity_tests.cases.nlp.bert import SMALL_BERT
from parity_tests.cases.nlp.efficient import SMALL_PERFORMER, SMALL_REFORMER
from parity_tests.cases.nlp.gpt import SMALL_GPT
from parity_tests.cases.nlp.text_classifiers import SMALL_FASTBERT, segments
from parity_tests.cases.nlp.transformer import SMALL_TRANSFORMER, sentences
from parity_tests.cases.nlp.word_segmentation import SMALL_BILSTM, SMALL_LAC, characters
from parity_tests.text_models import BERT_INPUTS, BERT_TARGETS, BOTH, GPT_IDS, built, waves
from weights import catalog

GPT_INPUTS, GPT_TARGETS = {"input_ids": GPT_IDS}, {"labels": GPT_IDS}

CHECKS = {  # options, inputs, targets, loss and its bound, then for each output a part of it and its bound
    "bert_base_uncased": (
        (SMALL_BERT, BERT_INPUTS, BERT_TARGETS, 4.5679312499, 1e-9),
        ("seq_relationship_logits", ..., [[-0.0521103200, -0.0938993863], [-0.0521616875, -0.0942395333]], 2e-8),
        ("prediction_logits", np.s_[0, 1, :3], [0.1680954988, -0.1951126878, -0.3310458583], 1e-9),
    ),
    # the reference's loss is in single precision
    "gpt2": (
        (SMALL_GPT, GPT_INPUTS, GPT_TARGETS, 4.4115910530, 6e-7),
        ("logits", np.s_[0, -1, :3], [0.8414481966, -0.1962069147, -0.9211101126], 1e-9),
    ),
    "gpt1": (
        (SMALL_GPT, GPT_INPUTS, GPT_TARGETS, 4.4841642380, 6e-7),
        ("logits", np.s_[0, -1, :3], [0.9029821053, -0.1368621211, -0.9585494578], 1e-9),
    ),
}


@BOTH
@pytest.mark.parametrize("name", CHECKS)
def test_check_values_of_the_reference(which, name):
    (options, inputs, targets, loss, bound), *parts = CHECKS[name]
    panel = built(which, name, options, weights=waves)
    outputs = panel.outputs(inputs)
    np.testing.assert_allclose(panel.losses(inputs, targets)["total"], loss, rtol=0, atol=bound)
    for key, part, expected, bound in parts:
        np.testing.assert_allclose(outputs[key][part], expected, rtol=0, atol=bound, err_msg=key)


TIED = {  # what a step of training takes, and the names that are tied
    "bert_base_uncased": (
        (SMALL_BERT, BERT_INPUTS, BERT_TARGETS, 0.0),
        {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
    "gpt1": ((SMALL_GPT, GPT_INPUTS, GPT_TARGETS, 0.5), {"lm_head.weight": "transformer.tokens_embed.weight"}),
    "gpt2": ((SMALL_GPT, GPT_INPUTS, GPT_TARGETS, 0.5), {"lm_head.weight": "transformer.wte.weight"}),
}


@BOTH
@pytest.mark.parametrize("name", TIED)
def test_output_layer_stays_tied_to_the_embedding_in_training(which, name):
    (options, inputs, targets, rate), tied = TIED[name]
    panel = built(which, name, options)
    before = panel.state()
    panel.train(inputs, targets, rate, steps=1)
    after = panel.state()
    assert panel.aliases() == tied
    words = next(iter(tied.values()))
    assert np.abs(after[words] - before[words]).max() > 0
    for alias, first in tied.items():
        np.testing.assert_array_equal(after[alias], after[first])


@BOTH
@pytest.mark.parametrize("name, options", [("gpt2", SMALL_GPT), ("fastbert_base", SMALL_FASTBERT)])
def test_text_longer_than_the_positions_is_refused(which, name, options):
    panel = built(which, name, options)
    with pytest.raises(ValueError, match="17 tokens, and the model has 16 positions"):
        panel.outputs({key: np.ones((1, 17), np.int64) for key in catalog.get(name).inputs})


TRANSLATED = {"input_ids": 1, "decoder_input_ids": 1}  # padding is word 1
PADDED = {  # model, options, inputs of two or more rows, what padding is if not 0, output, bound
    "fastbert": ("fastbert_base", SMALL_FASTBERT, segments(), 4, {}, "logits", 1e-14),
    "bilstm_crf": ("bilstm_crf", SMALL_BILSTM, characters(8), 3, {}, "emissions", 1e-13),
    "bigru_crf": ("bigru_crf_lac", SMALL_LAC, characters(8), 3, {}, "emissions", 1e-13),
} | {
    f"transformer-{pos}": (
        *("transformer_base", {**SMALL_TRANSFORMER, "normalize_before": False, "pos": pos, "positions": 16}),
        *(sentences(), 2, TRANSLATED, "logits", 1e-13),
    )
    for pos in ("paper", "t2t", "fairseq", "marian")
}


@BOTH
@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_nothing(which, name):
    """Neither the content of masked words matters, nor their number."""
    model, options, make, batch, padding, key, bound = PADDED[name]
    panel = built(which, model, options, strict=model != "transformer_base")
    inputs = make(np.random.default_rng(0), batch)
    expected = panel.outputs(inputs)[key]
    ends = [expected.shape[1]] * batch
    if "mask" in inputs:
        ends = inputs["mask"].sum(1)
        inputs = {**inputs, "input_ids": np.where(inputs["mask"], inputs["input_ids"], 7)}
    longer = {n: np.pad(x, [(0, 0), (0, 3)], constant_values=padding.get(n, 0)) for n, x in inputs.items()}
    found = panel.outputs(longer)[key]
    for row, end in enumerate(ends):
        np.testing.assert_allclose(found[row, :end], expected[row, :end], rtol=0, atol=bound)


REFUSED = {  # by module: what is called, and what the message says
    "bert": [
        (lambda m: m.bert_tiny("tokens"), r"head='tokens' must be one of .*'token'"),
        (lambda m: m.bert_tiny(hidden=10, heads=4), "hidden=10 must be a multiple of heads=4"),
    ],
    "gpt": [
        (lambda m: m.gpt2("lmm", **SMALL_GPT), r"head='lmm' must be one of .*'step'"),
        (lambda m: m.gpt2(**{**SMALL_GPT, "hidden": 10, "heads": 4}), "hidden=10 must be a multiple of heads=4"),
    ],
    "fastbert": [
        (lambda m: m.fastbert_base(**{**SMALL_FASTBERT, "pooling": "sum"}), r"pooling='sum' must be one of .*'mean'"),
        (lambda m: m.fastbert_base(**{**SMALL_FASTBERT, "heads": 3}), "hidden=16 must be a multiple of heads=3"),
        (lambda m: m.FastBertPostProcess(1.5), "must be 0 to 1"),
        (lambda m: m.FastBertTrainer(None, phase="both"), "phase='both' must be 'finetune' or 'distill'"),
    ],
    "performer": [
        (lambda m, wrong=wrong: m.performer_lm(**SMALL_PERFORMER, **wrong), message)
        for wrong, message in (
            ({"norm": "batch"}, "norm='batch' must be one of layer, scale, rezero"),
            ({"local_attn_heads": 5}, "local_attn_heads=5 must be from 0 to heads=4"),
            ({"reversible": True, "ff_dropout": 0.1}, "goes neither with cross_attend nor with dropout"),
            ({"reversible": True, "cross_attend": True}, "goes neither with cross_attend nor with dropout"),
        )
    ],
    "reformer": [
        (
            lambda m: m.reformer_lm(**SMALL_REFORMER, positions="learnt"),
            "positions='learnt' must be one of rotary, fixed, absolute, axial",
        )
    ],
    "transformer": [
        *(
            (lambda m, wrong=wrong: m.transformer_base(**{**SMALL_TRANSFORMER, **wrong}), message)
            for wrong, message in (
                ({"pos": "sine"}, "pos='sine' must be one of"),
                ({"heads": 3}, "dim=16 must be a multiple of heads=3"),
                ({"tying": "both"}, "tying='both' must be one of all, decoder, none"),
                ({"source_vocab_size": 41}, "source_vocab_size=41 must be vocab_size=40 where tying='all'"),
            )
        ),
        (lambda m: m.transformer_base("decode"), "head='decode' must be one of"),
        (lambda m: m.TransformerCriterion(form="none"), "form='none' must be one of fairseq, t2t, torch"),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_options_are_named(name):
    for package in ("tf_impl", "torch_impl"):
        module = importlib.import_module(f"{package}.nlp.{name}")
        for call, message in REFUSED[name]:
            with pytest.raises(ValueError, match=message):
                call(module)
