"""Losses, schedules, counts and descriptors of re-identification against literal numbers."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.reid.agw as tf_agw
import tf_impl.training.schedules as tf_schedules
import torch_impl.reid.agw as torch_agw
import torch_impl.training.schedules as torch_schedules
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.test_metric import BOTH, f, near
from parity_tests.test_retrieval import literal
from weights import catalog

AGW = {TensorFlow: tf_agw, PyTorch: torch_agw}
TENSOR = {TensorFlow: tf.constant, PyTorch: torch.tensor}
SCHEDULES = pytest.mark.parametrize("schedules", [tf_schedules, torch_schedules], ids=["tensorflow", "pytorch"])


@BOTH
def test_label_smoothing(panel):
    logits, labels = f(4, 5, 1.1, 0.11), np.arange(4)
    loss = AGW[panel].smooth_cross_entropy(TENSOR[panel](logits), TENSOR[panel](labels))
    np.testing.assert_allclose(float(loss), 1.4546772930, rtol=1e-9)
    cross_entropy = __import__(f"{panel.package}.losses.cross_entropy", fromlist=["_"]).cross_entropy
    loss = cross_entropy(TENSOR[panel](logits), TENSOR[panel](labels), label_smoothing=0.1)
    np.testing.assert_allclose(float(loss), 1.4438874123, rtol=1e-9)


@BOTH
def test_label_smoothing_of_fast_reid(panel):
    inputs, outputs = literal("fastreid_heads_losses")
    labels, smooth = inputs["labels"].astype(np.int64), AGW[panel].smooth_cross_entropy
    near(float(smooth(TENSOR[panel](inputs["feature"]), TENSOR[panel](labels), -1.0)), outputs["ce_smooth_adaptive"])
    if panel is PyTorch:
        x = torch.tensor(inputs["feature"], requires_grad=True)
        loss = smooth(x, torch.tensor(labels))
        gradient = torch.autograd.grad(loss, x)[0].numpy()
    else:
        x = tf.constant(inputs["feature"])
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = smooth(x, tf.constant(labels))
        gradient = tape.gradient(loss, x).numpy()
    near(float(loss), outputs["ce_smooth"])
    near(gradient, outputs["ce_smooth.grad"])


@SCHEDULES
def test_warmup(schedules):
    factors = [schedules.warmup_multistep(epoch) for epoch in (0, 5, 10, 39, 40, 69, 70)]
    assert factors == pytest.approx([0.01, 0.505, 1, 1, 0.1, 0.1, 0.01])
    assert schedules.warmup_multistep(5, form="constant") == pytest.approx(0.01)
    assert schedules.warmup_multistep(5, form="exp") == pytest.approx(0.1)
    assert schedules.cosine(30, 60) == pytest.approx(0.5)
    sbs = [schedules.warmup_cosine(t, 60, delay=30, last=0.002) for t in (0, 30, 45, 60, 70)]
    assert sbs == pytest.approx([1, 1, 0.501, 0.002, 0.002])
    with pytest.raises(ValueError, match="form='step' must be"):
        schedules.warmup_multistep(5, form="step")


def test_both_frameworks_take_the_schedule():
    factors = [torch_schedules.warmup_multistep(t) for t in range(80)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, rate = torch_schedules.ScheduledRate(optimizer, factors), tf_schedules.ScheduledRate(0.5, factors)
    for step in range(90):
        assert float(rate(step)) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "model, options, count",
    [
        ("reid_baseline_resnet18", {"num_classes": 702}, 11536960),
        ("reid_baseline_resnet50", {}, 25050176),
        ("agw_r50", {"inter": "half"}, 32408640),
    ],
)
def test_parameters_of_the_sheet(model, options, count):
    """Counts that are not those of a catalogue entry's own options."""
    module = __import__(f"torch_impl.{catalog.get(model).module}", fromlist=["_"])
    with torch.device("meta"):
        built = getattr(module, model)(**options)
    assert sum(p.numel() for p in built.parameters()) == count


@BOTH
@pytest.mark.parametrize(
    "model, options, words",
    [
        ("reid_baseline_resnet50", {"block": "ibn_b"}, "block='ibn_b' must be one of"),
        ("reid_baseline_resnet50", {"neck_feat": "neck"}, "neck_feat='neck' must be"),
        ("agw_r50", {"inter": "one"}, "inter='one' must be"),
    ],
)
def test_bad_options(panel, model, options, words):
    module = __import__(f"{panel.package}.{catalog.get(model).module}", fromlist=["_"])
    with pytest.raises(ValueError, match=words):
        getattr(module, model)(**options)
