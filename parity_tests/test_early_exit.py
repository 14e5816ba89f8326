"""Texts that leave FastBERT early: the answers of the whole model, and the share of the layers that is skipped."""

import numpy as np
import torch

import tf_impl.nlp.fastbert as tf_fastbert
import torch_impl.nlp.fastbert as torch_fastbert
from parity_tests.cases.nlp.text_classifiers import segments
from parity_tests.text_models import BOTH, TENSOR, fastbert

MODULES = (tf_fastbert, torch_fastbert)
INPUTS = segments()(np.random.default_rng(0), 4)


def answers(which, panel, speed):
    """Of the dense variant and of the one that skips, and how many rows each layer computed."""
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
    panel = fastbert(which)
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
    panel = fastbert(1, "float32", num_classes=2)
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
    twin = fastbert(0, "float32", num_classes=2)
    twin.load(panel.state())
    found = twin.arrays(tf_fastbert.adaptive(twin.model, *twin.tensors(inputs).values(), speed=0.5))
    assert 1 - found["layers"].sum() / (64 * 3) == skipped[0.5]
