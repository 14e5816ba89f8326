"""FastBERT: its classifiers, both phases of its training, and texts that leave early."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.nlp.fastbert as tf_fastbert
import torch_impl.nlp.fastbert as torch_fastbert
from parity_tests.cases.nlp.text_classifiers import FASTBERT_REFERENCE, SMALL_FASTBERT, segments
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file
from weights.processing.sentences import segment_input
from weights.processing.text import SPECIAL, TextError
from weights.seeded import seeded

PANELS = (TensorFlow, PyTorch)
MODULES = (tf_fastbert, torch_fastbert)
TENSOR = (tf.constant, torch.tensor)
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
INPUTS = segments()(np.random.default_rng(0), 4)
TARGETS = {"labels": np.array([0, 2, 1, -100])}


def built(which, precision="float64", **options):
    panel = PANELS[which](catalog.get("fastbert_base"), {**SMALL_FASTBERT, **options}, precision=precision)
    panel.load(seeded(panel.shapes()))
    return panel


@BOTH
def test_uncertainty_is_the_references(which):
    expected = fingerprints.load("fastbert_small")
    given = fingerprints.inputs_of(expected)
    inputs = {ours: given[theirs] for theirs, ours in FASTBERT_REFERENCE.inputs.items()}
    panel = PANELS[which](catalog.get("fastbert_base"), FASTBERT_REFERENCE.options, precision="float32")
    panel.load(seeded(panel.shapes()))
    logits = panel.outputs(inputs)["logits"]
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](logits)))
    for i in range(3):
        for figure in compare_with_fingerprint(f"{i}", found[:, i], expected["outputs"][f"uncertainty.{i}"]):
            assert figure.relative <= 1e-5, figure


@BOTH
def test_uncertainty_is_a_share(which):
    logits = np.array([[0.0, 0, 0, 0], [1e3, 0, 0, 0], [0, 0, -1e3, -1e3]])
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](logits)))
    np.testing.assert_allclose(found, [1, 0, 0.5], atol=1e-15)
    nearly_even = 1e-4 * np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)
    found = np.asarray(MODULES[which].uncertainty(TENSOR[which](nearly_even)))
    assert found.max() == 1, "with speed 1 every text leaves at the first layer"


def test_size_of_a_classifier():
    with torch.device("meta"):
        model = torch_fastbert.fastbert_base()
    assert sum(p.numel() for p in model.classifiers[0].parameters()) == 181_250


POOLED = {
    "first": lambda x: x[:, 0],
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(1),
    "last": lambda x: x[:, -1],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_poolings(pooling):
    panels = [built(which, pooling=pooling) for which in (0, 1)]
    outputs = [panel.outputs(INPUTS)["logits"] for panel in panels]
    assert onnx_file.relative(*outputs) <= 1e-14
    gradients = [panel.gradients(INPUTS, TARGETS) for panel in panels]
    largest = max(np.abs(g).max() for g in gradients[1].values())
    for name, value in gradients[1].items():
        np.testing.assert_allclose(gradients[0][name], value, rtol=0, atol=1e-14 * largest, err_msg=name)
    state, calls = panels[1].state(), panels[1].record(INPUTS)
    seen = calls["classifiers.1.self_atten"][0][1][0]
    part = "classifiers.1.output_layer_"
    hidden = np.tanh(POOLED[pooling](seen) @ state[f"{part}1.weight"].T + state[f"{part}1.bias"])
    expected = hidden @ state[f"{part}2.weight"].T + state[f"{part}2.bias"]
    np.testing.assert_allclose(outputs[1][:, 1], expected, rtol=0, atol=1e-14)


def test_wrong_options_are_named():
    for module in MODULES:
        with pytest.raises(ValueError, match=r"pooling='sum' must be one of .*'mean'"):
            module.fastbert_base(**{**SMALL_FASTBERT, "pooling": "sum"})
        with pytest.raises(ValueError, match="hidden=16 must be a multiple of heads=3"):
            module.fastbert_base(**{**SMALL_FASTBERT, "heads": 3})
        with pytest.raises(ValueError, match="must be 0 to 1"):
            module.FastBertPostProcess(1.5)
        with pytest.raises(ValueError, match="phase='both' must be 'finetune' or 'distill'"):
            module.FastBertTrainer(None, phase="both")


@BOTH
def test_text_longer_than_the_positions_is_refused(which):
    with pytest.raises(ValueError, match="17 tokens, and the model has 16 positions"):
        built(which).outputs({name: np.ones((1, 17), np.int64) for name in INPUTS})


@BOTH
def test_padding_changes_nothing(which):
    panel = built(which)
    longer = {name: np.pad(ids, [(0, 0), (0, 3)]) for name, ids in INPUTS.items()}
    found = panel.outputs(longer)["logits"]
    np.testing.assert_allclose(found, panel.outputs(INPUTS)["logits"], rtol=0, atol=1e-14)


# training


def student(name: str) -> bool:
    return name.startswith(("classifiers.0.", "classifiers.1."))


@BOTH
@pytest.mark.parametrize("phase", ["finetune", "distill"])
def test_a_phase_has_gradients_of_its_own_parameters_only(which, phase, monkeypatch):
    panel = built(which)
    real = panel._losses

    def one(*args, **kwargs):
        return {"total": real(*args, **kwargs)[phase]}

    monkeypatch.setattr(panel, "_losses", one)
    for name, value in panel.gradients(INPUTS, TARGETS).items():
        quiet = name.endswith("linear_layers.1.bias")  # softmax does not see what is added to all keys
        assert value.any() == (student(name) == (phase == "distill")) or quiet, name


@BOTH
@pytest.mark.parametrize("phase", ["finetune", "distill"])
def test_a_phase_trains_its_own_parameters_only(which, phase):
    panel = built(which)
    before = panel.state()
    trainer = MODULES[which].FastBertTrainer(panel.model, phase=phase)
    assert trainer.learning_rate == {"finetune": 2e-5, "distill": 2e-4}[phase]
    decayed = {name for name, decay in trainer.optimizer.decay.items() if decay}
    assert decayed == {n for n in trainer.optimizer.parameters if not n.endswith(("bias", "gamma", "beta"))}
    losses = [trainer.step(panel.tensors(INPUTS), panel.tensors(TARGETS)) for _ in range(3)]
    after = panel.state()
    for name, value in before.items():
        assert (after[name] != value).any() == (student(name) == (phase == "distill")), name
    assert float(losses[2][phase]) < float(losses[0][phase])
    other = {"finetune": "distill", "distill": "finetune"}[phase]
    assert (float(losses[2][other]) != float(losses[0][other])) == (phase == "finetune"), "the teacher moves"


def test_both_panels_distil_alike_without_labels():
    targets = {"labels": np.full(4, -100)}
    states = []
    for which in (0, 1):
        panel = built(which)
        with panel._policy():
            trainer = MODULES[which].FastBertTrainer(panel.model, phase="distill", learning_rate=2.0**-7)
        losses = [trainer.step(panel.tensors(INPUTS), panel.tensors(targets)) for _ in range(3)]
        states.append({**panel.state(), **{f"loss {i}": np.asarray(float(x["distill"])) for i, x in enumerate(losses)}})
        assert float(losses[0]["finetune"]) == 0
    for name, value in states[1].items():
        assert onnx_file.relative(states[0][name], value) <= 1e-8, name


@BOTH
def test_equal_values_are_normalised_with_a_gradient(which):
    x = np.full((1, 2, 16), 3.0)
    if which == 0:
        layer = tf_fastbert.StdLayerNorm()
        tensor = tf.constant(x, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            y = layer(tensor)
            total = tf.reduce_sum(y * tf.range(16, dtype=tf.float32))
        gradient = tape.gradient(total, tensor).numpy()
    else:
        layer = torch_fastbert.StdLayerNorm(16)
        tensor = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        y = layer(tensor)
        (y * torch.arange(16)).sum().backward()
        gradient = tensor.grad.numpy()
    assert not np.asarray(y.detach() if which else y).any()
    np.testing.assert_allclose(gradient[0, 0], (np.arange(16) - 7.5) / 1e-6, rtol=1e-5)


# leaving early


def answers(which, panel, speed):
    """Of the dense form and of the one that skips, and how many rows each layer computed."""
    module, tensors = MODULES[which], panel.tensors(INPUTS)
    panel.postprocess.speed = speed
    calls = []
    for layer in panel.model.encoder.transformer:
        original = layer.call if which == 0 else layer.forward

        def counted(x, *args, original=original, **kwargs):
            calls.append(len(x))
            return original(x, *args, **kwargs)

        object.__setattr__(layer, "call" if which == 0 else "forward", counted)
    try:
        skipping = module.adaptive(panel.model, *tensors.values(), speed=speed)
    finally:
        for layer in panel.model.encoder.transformer:
            object.__delattr__(layer, "call" if which == 0 else "forward")
    return panel.results(INPUTS), panel.arrays(skipping), calls


@BOTH
def test_skipping_gives_the_dense_answers(which):
    panel = built(which)
    outputs = panel.outputs(INPUTS)["logits"]
    doubt = np.asarray(MODULES[which].uncertainty(TENSOR[which](outputs)))
    depths = set()
    for speed in (0.0, *np.sort(doubt.ravel())[1:-1:2], 1.0):
        dense, skipping, calls = answers(which, panel, float(speed) + 1e-9 * (0 < speed < 1))
        assert list(dense) == list(skipping)
        for name, value in dense.items():
            np.testing.assert_allclose(skipping[name], value, rtol=0, atol=1e-13, err_msg=name)
            assert skipping[name].dtype == value.dtype
        layers = skipping["layers"]
        assert calls == [n for n in (int((layers > i).sum()) for i in range(3)) if n], "what has left is not computed"
        for row, depth in enumerate(layers):
            assert (doubt[row, : depth - 1] > speed).all() and (doubt[row, depth - 1] <= speed + 1e-9 or depth == 3)
            assert skipping["classes"][row] == outputs[row, depth - 1].argmax()
        depths.add(tuple(layers))
    assert {(3, 3, 3, 3), (1, 1, 1, 1)} < depths and len(depths) > 3, depths


def test_share_of_the_layers_that_is_skipped():
    """After both phases most texts leave early, with the answers of the whole model."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 50, (64, 8))
    labels = np.arange(64) % 2
    ids[:, 3] = 1 + labels  # this word decides
    ids[::8, 3] = 3 + labels[::8]  # ... or one that is rare
    inputs, targets = {"input_ids": ids, "segment_ids": np.ones_like(ids)}, {"labels": labels}
    panel = built(1, "float32", num_classes=2)
    for phase, steps in (("finetune", 60), ("distill", 60)):
        trainer = torch_fastbert.FastBertTrainer(panel.model, phase=phase, learning_rate=2e-3)
        for _ in range(steps):
            losses = trainer.step(panel.tensors(inputs), panel.tensors(targets))
        assert float(losses[phase]) < 0.15, phase
    panel.model.eval()
    skipped = {}
    for speed in (0.0, 0.2, 0.5):
        found = panel.arrays(torch_fastbert.adaptive(panel.model, *panel.tensors(inputs).values(), speed=speed))
        skipped[speed] = 1 - found["layers"].sum() / (64 * 3)
        assert (found["classes"] == labels).mean() >= 0.95, speed
    assert skipped[0.0] == 0 < skipped[0.2] <= skipped[0.5] and skipped[0.5] > 0.5, skipped
    twin = built(0, "float32", num_classes=2)
    twin.load(panel.state())
    found = twin.arrays(tf_fastbert.adaptive(twin.model, *twin.tensors(inputs).values(), speed=0.5))
    assert 1 - found["layers"].sum() / (64 * 3) == skipped[0.5]


# sentences


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, "he", "hello", "中"]) + "\n", encoding="utf-8")
    return path


def test_segments_mark_the_texts_and_the_padding(small):
    found = segment_input(small, ["hello", ("he 中", "hello x")])
    np.testing.assert_array_equal(found["input_ids"], [[2, 6, 3, 0, 0, 0, 0], [2, 5, 7, 3, 6, 1, 3]])
    np.testing.assert_array_equal(found["segment_ids"], [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 2, 2, 2]])
    assert list(found) == list(catalog.get("fastbert_base").inputs)


def test_bad_sentences_are_refused(small):
    for sentences, message in (([], "no sentence"), ("", "is empty"), ("\u200b", "has no words")):
        with pytest.raises(TextError, match=message):
            segment_input(small, sentences)
    with pytest.raises(TextError, match="8 tokens do not fit the 7 words of the weights"):
        segment_input(small, "he", vocab_size=7)
    small.write_bytes(b"[PAD]\n\xff")
    with pytest.raises(TextError, match="not UTF-8"):
        segment_input(small, "he")
