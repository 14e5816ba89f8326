"""Sentence embeddings: real weights in four engines, against the reference's numbers."""

from functools import cache

import numpy as np
import pytest

import torch_impl.nlp.bert as torch_bert
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import TensorFlow
from parity_tests.test_wordpiece import package
from parity_tests.text_models import BOTH, PANELS
from weights import catalog, checkpoints, onnx_file, store
from weights.processing import text
from weights.processing.text import sentence_input

FINGERPRINT = fingerprints.load("minilm_l6_v2_sentences")
IDS = ("input_ids", "attention_mask", "token_type_ids")


@cache
def official():
    with skip_without_package():
        entry, path = checkpoints.fetch(catalog.get("all_minilm_l6_v2"))
    return store.rename(store.load(path), entry.rename)


@cache
def encoders():
    """Both panels with the official weights."""
    found = []
    for panel in PANELS:
        found.append(panel(catalog.get("all_minilm_l6_v2"), {}, precision="float32"))
        found[-1].load(official())
    return found


def encoded(sentences):
    return sentence_input(package("tokenizer.json"), sentences, 256, vocab_size=30522)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Functions of a batch of sentences: eager and ONNX of both panels."""
    folder = tmp_path_factory.mktemp("minilm")
    found = {}
    for panel in encoders():
        found[panel.package] = panel.outputs
        inputs = encoded(["two sentences", "of another length"])
        path = panel.export(folder / f"{panel.package}.onnx", inputs, None, {name: ("N", "T") for name in IDS})
        session = onnx_file.session(path, threads=1)
        found[f"{panel.package} ONNX"] = lambda batch, session=session: onnx_file.run(session, batch)
    return found


def test_names_and_size_are_the_checkpoints():
    model = torch_bert.all_minilm_l6_v2()
    assert model.state_dict().keys() == official().keys()
    assert sum(p.numel() for p in model.parameters()) == 22_713_216


def test_tokens_are_the_fingerprints():
    found = encoded(FINGERPRINT["inputs"]["sentences"])
    for name in ("input_ids", "attention_mask"):
        described = FINGERPRINT["inputs"][name]
        np.testing.assert_array_equal(found[name], np.reshape(described["data"], described["shape"]))
    tokenizer = text.open_tokenizer(package("tokenizer.json"))
    for sentence, expected in zip(FINGERPRINT["inputs"]["sentences"], FINGERPRINT["inputs"]["tokens"], strict=True):
        assert tokenizer.encode(sentence).tokens == expected


@BOTH
def test_every_layer_is_the_references(which):
    inputs = encoded(FINGERPRINT["inputs"]["sentences"])
    calls = encoders()[which].record(inputs)
    stages = {f"hidden_row1.{i + 1}": f"encoder.layer.{i}" for i in range(6)}
    for name, module in {"hidden_row1.0": "embeddings", **stages}.items():
        found = calls[module][-1][1][0][1, :9]
        for figure in compare_with_fingerprint(name, found, FINGERPRINT["outputs"][name]):
            assert figure.relative <= 1e-5, figure


def test_four_engines_give_the_references_embeddings(engines):
    inputs = encoded(FINGERPRINT["inputs"]["sentences"])
    for engine, run in engines.items():
        found = run(inputs)
        found = {**found, "last_hidden_valid_row0": found["last_hidden_state"][0, :11]}
        found["cosine"] = found["embedding"] @ found["embedding"].T
        for name in ("embedding", "cosine", "pooler_output", "last_hidden_valid_row0"):
            for figure in compare_with_fingerprint(name, found[name], FINGERPRINT["outputs"][name]):
                assert figure.relative <= 1e-5, (engine, figure)


def test_four_engines_find_the_sentence_that_is_alike(engines):
    sentences = [
        "The cat sits outside",
        "A man is playing guitar",
        "The new movie is awesome",
        "A kitten rests in the garden",
        "The film that just came out is great",
        "Someone strums a musical instrument",
    ]
    inputs = encoded(sentences)
    np.testing.assert_array_equal(inputs["input_ids"][0, :6], [101, 1996, 4937, 7719, 2648, 102])
    for engine, run in engines.items():
        embedding = run(inputs)["embedding"]
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
        cosine = embedding @ embedding.T
        np.testing.assert_allclose(cosine[[0, 0, 1], [1, 3, 2]], [0.0363, 0.5946, 0.0093], atol=1e-4, err_msg=engine)
        start = [0.139191, 0.003029, 0.047015, 0.039574, -0.047999]
        np.testing.assert_allclose(embedding[0, :5], start, atol=2e-6, err_msg=engine)
        nearest = (cosine - 2 * np.eye(6)).argmax(1)
        np.testing.assert_array_equal(nearest, [3, 5, 4, 0, 2, 1], err_msg=engine)


def test_padding_changes_nothing(engines):
    short, long = "A kitten rests in the garden.", "neural networks " * 20
    for engine, run in engines.items():
        alone, padded = run(encoded([short])), run(encoded([long, short]))
        np.testing.assert_allclose(padded["embedding"][1], alone["embedding"][0], atol=1e-6, err_msg=engine)
        tokens = alone["last_hidden_state"].shape[1]
        np.testing.assert_allclose(
            padded["last_hidden_state"][1, :tokens], alone["last_hidden_state"][0], atol=5e-6, err_msg=engine
        )


def test_weights_of_another_size_are_refused():
    panel = TensorFlow(catalog.get("all_minilm_l6_v2"), {"layers": 1}, precision="float32")
    with pytest.raises(store.StoreError, match=r"80 unexpected: encoder\.layer\.1\."):
        panel.load(official())
