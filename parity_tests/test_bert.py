"""BERT: published sizes, its heads, how it starts, and training from text."""

import numpy as np
import pytest
import torch

import tf_impl.nlp.bert as tf_bert
import torch_impl.nlp.bert as torch_bert
import torch_impl.state
from parity_tests.cases.nlp.bert import SMALL_BERT
from parity_tests.harness.panels import TensorFlow
from parity_tests.text_models import BERT_INPUTS, BERT_TARGETS, BOTH, PANELS, TENSOR
from weights import catalog
from weights.processing import text
from weights.seeded import seeded

COUNTS = {  # without and with the pre-training heads
    "bert_tiny": (4_385_920, 4_433_468),
    "bert_mini": (11_170_560, 11_267_900),
    "bert_small": (28_763_648, 29_058_876),
    "bert_base_uncased": (109_482_240, 110_106_428),
    "bert_large_uncased": (335_141_888, 336_226_108),
    "bert_base_cased": (108_310_272, 108_932_934),
    "bert_large_cased": (333_579_264, 334_661_958),
    "bert_base_chinese": (102_267_648, 102_882_442),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes(name):
    for head, count in zip(("model", "pretraining"), COUNTS[name], strict=True):
        with torch.device("meta"):
            model = getattr(torch_bert, name)(head)
        assert sum(p.numel() for p in model.parameters()) == count, head


@BOTH
def test_masked_words_alone_are_those_of_pre_training(which):
    """BertForMaskedLM is BertForPreTraining without what reads the pooled token."""
    both = PANELS[which](catalog.get("bert_base_uncased"), SMALL_BERT)
    words = PANELS[which](catalog.get("bert_base_uncased_masked_lm"), SMALL_BERT)
    tensors = seeded(both.shapes(), aliases=both.aliases())
    both.load(tensors)
    assert set(tensors) - set(words.shapes()) == {
        f"{layer}.{kind}" for layer in ("bert.pooler.dense", "cls.seq_relationship") for kind in ("weight", "bias")
    }
    words.load({name: tensors[name] for name in words.shapes()})
    key = "prediction_logits"
    np.testing.assert_allclose(words.outputs(BERT_INPUTS)[key], both.outputs(BERT_INPUTS)[key], rtol=0, atol=1e-12)
    labels = {"labels": BERT_TARGETS["labels"]}
    losses = words.losses(BERT_INPUTS, labels)
    assert losses["total"] == losses["mlm"] == pytest.approx(both.losses(BERT_INPUTS, BERT_TARGETS)["mlm"], abs=1e-12)


@BOTH
@pytest.mark.parametrize("head", ["sequence", "token", "question"])
def test_only_heads_that_read_the_pooled_token_have_a_pooler(head, which):
    options = {**SMALL_BERT, "layers": 1, "head": head}
    panel = PANELS[which](catalog.get("bert_base_uncased"), options)
    assert ("bert.pooler.dense.weight" in panel.shapes()) == (head == "sequence")


@BOTH
def test_answer_outside_the_text_does_not_count(which):
    module = (tf_bert, torch_bert)[which]
    tensor = TENSOR[which]
    logits = np.random.default_rng(0).standard_normal((2, 3, 5))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    outputs = {"start_logits": tensor(logits[0]), "end_logits": tensor(logits[1])}
    targets = {"start_positions": tensor([1, -100, 4]), "end_positions": tensor([5, -1, -100])}
    losses = module.BertQuestionAnsweringCriterion()(outputs, targets)
    start = -(log_p[0, 0, 1] + log_p[0, 2, 4]) / 2
    found = [float(losses[key]) for key in ("start", "end", "total")]
    np.testing.assert_allclose(found, [start, 0, start / 2], rtol=1e-6)


STORY = ("the cat sits on the mat.", "the mat is red.", "a red mat is warm.", "the cat is warm.")
TALE = ("a ship sails over the sea.", "the sea is deep.", "a storm comes.", "the ship sinks in the storm.")


def test_pretraining_from_text_fills_the_gaps_in_the_end():
    """Text, pairs and masks train PyTorch's model; TensorFlow's, with its weights, fills in the same words."""
    words = [*text.SPECIAL, ".", *dict.fromkeys(" ".join(STORY + TALE).replace(".", "").split())]
    stories = [[[words.index(w) for w in s.replace(".", " .").split()] for s in story] for story in (STORY, TALE)]
    rng = np.random.default_rng(0)
    pairs = [p for _ in range(6) for p in text.next_sentence_pairs(stories, iter(rng.random, None), 24, short=0.0)]
    batch = text.pack(pairs, words)
    masked = text.mask_words(batch["input_ids"], words, rng.random((3, *batch["input_ids"].shape)))
    inputs = {**{name: batch[name] for name in BERT_INPUTS}, "input_ids": masked["input_ids"]}
    targets = {"labels": masked["labels"], "next_sentence_label": batch["next_sentence_label"]}
    options = {"vocab_size": len(words), "hidden": 32, "heads": 4, "intermediate": 64, "dropout": 0.0}
    torch.manual_seed(0)
    model = torch_bert.bert_tiny(**options)
    trainer = torch_bert.BertTrainer(model, learning_rate=3e-3)
    x = {name: torch.from_numpy(ids) for name, ids in inputs.items()}
    y = {name: torch.from_numpy(ids) for name, ids in targets.items()}
    losses = [float(trainer.step(x, y)["total"].detach()) for _ in range(150)]
    assert losses[-1] < 0.05 * losses[0], losses[::10]
    twin = TensorFlow(catalog.get("bert_tiny"), options, precision="float32")
    twin.load(torch_impl.state.state_dict(model.eval()))
    with torch.no_grad():
        by_torch = torch_bert.BertPreTrainingPostProcess()(model(*x.values()))["words"].numpy()
    gaps = masked["labels"] >= 0
    for found in (by_torch, twin.results(inputs)["words"]):
        assert (found == masked["labels"])[gaps].mean() > 0.98


def test_matrices_and_embeddings_start_with_a_small_deviation():
    options = {**SMALL_BERT, "vocab_size": 3000}
    for panel in PANELS:
        state = panel(catalog.get("bert_base_uncased"), options).state()
        for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.intermediate.dense.weight"):
            assert 0.017 < state[name].std() < 0.023, name
