"""What every backbone offers: maps at its strides, frozen stages, fixed statistics, a fixed scale and shift."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import tf_impl
from parity_tests.harness.case import cases
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import onnx_file
from weights.seeded import seeded

UNPADDED = ("inception_v3", "inception_v4", "inception_resnet_v2", "xception", "squeezenet")
NORMLESS = ("squeezenet", "vgg")  # as published
NEVER_FIXED = ("darknet", "dla")  # no published detector has their normalisation as a fixed scale and shift
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
WITHOUT = {"inception_v3": {"aux_logits": False}, "googlenet": {"aux_logits": False}}


def _backbones() -> dict:
    """One case of every module with a backbone; the first in the file."""
    found = {}
    for case in cases().values():
        if case.entry.family == "classification":
            found.setdefault(case.entry.module.partition(".")[2], case)
    return found


BACKBONES = _backbones()


def each(names):
    marked = [pytest.param(name, marks=pytest.mark.module(BACKBONES[name].entry.module)) for name in names]
    return pytest.mark.parametrize("name", marked)


def twins(name, **options):
    """Both panels in float64 with the same seeded weights, no randomness in training, and inputs and targets."""
    case, rng = BACKBONES[name], np.random.default_rng(3)
    inputs = {"images": rng.standard_normal((2, 3, *((80, 75) if name in UNPADDED else (64, 32))))}
    without = WITHOUT.get(name, {})
    criterion = {"auxiliary": {}} if without else case.criterion
    panels = [
        panel(case.entry, {**case.options, **without, **options}, criterion, precision="float64")
        for panel in (TensorFlow, PyTorch)
    ]
    values = seeded(panels[1].shapes(), aliases=panels[1].aliases())
    for panel in panels:
        panel.load(values)
    return panels, inputs, case.targets(rng, 2)


def test_every_classification_module_is_covered():
    modules = {path.stem for path in Path(tf_impl.__file__).parent.glob("classification/[!_]*.py")}
    assert modules and modules == set(BACKBONES)


@each(BACKBONES)
def test_frozen_stages_neither_learn_nor_gather_statistics(name):
    (tensorflow, torch), inputs, targets = twins(name, frozen_stages=1)
    before = torch.state()
    frozen = {
        id(p) for level in torch.model.levels()[:2] for part in level for p in part.state_dict(keep_vars=True).values()
    }
    names = {key for key, value in torch.model.state_dict(keep_vars=True).items() if id(value) in frozen}
    assert names and names < set(before)
    learned = [set(panel.gradients(inputs, targets)) for panel in (tensorflow, torch)]
    assert learned[0] == learned[1] and not learned[0] & names
    torch.model.train()
    torch.model(*torch.tensors(inputs).values())
    tensorflow.model(*tensorflow.tensors(inputs).values(), training=True)
    after, twin = torch.state(), tensorflow.state()
    moved = {key for key in before if not np.array_equal(before[key], after[key])}
    statistics = {key for key in before if key.rpartition(".")[2] in STATISTICS}
    assert moved == statistics - names
    assert max(onnx_file.relative(twin[key], after[key], 1e-12) for key in before) < 1e-10


@each(name for name in BACKBONES if name not in NORMLESS)
def test_norm_eval_keeps_the_statistics(name):
    panels, inputs, _ = twins(name, norm_eval=True)
    for panel in panels:
        evaluated, trained = panel.outputs(inputs), panel.outputs(inputs, training=True)
        assert max(onnx_file.relative(trained[key], evaluated[key]) for key in evaluated) < 1e-12


@each(name for name in BACKBONES if name not in NORMLESS + NEVER_FIXED)
def test_frozen_normalisation_is_a_scale_and_a_shift(name):
    fixed, inputs, targets = twins(name, norm="frozen")
    plain, _, _ = twins(name)
    for panel, other in zip(fixed, plain, strict=True):
        assert set(panel.shapes()) == {key for key in other.shapes() if not key.endswith("num_batches_tracked")}
        expected = other.outputs(inputs)
        found = panel.outputs(inputs, training=True)
        assert max(onnx_file.relative(found[key], expected[key]) for key in expected) < 1e-12
    learned = [set(panel.gradients(inputs, targets)) for panel in fixed]
    assert learned[0] == learned[1]
    assert not [key for key in learned[0] if key.removesuffix(".weight") + ".running_mean" in fixed[0].shapes()]


@each(BACKBONES)
def test_maps_come_at_their_strides(name):
    (tensorflow, torch), inputs, _ = twins(name, features_only=True)
    maps, twin = torch.outputs(inputs), tensorflow.outputs(inputs)
    assert list(maps) == list(twin)
    for key, x in maps.items():
        stride = 2 ** int(key[1:]) if key[0] == "c" else int(key[1:])
        size = [-(-length // stride) for length in inputs["images"].shape[2:]]
        if name in UNPADDED:
            assert all(0 < length <= whole for length, whole in zip(x.shape[2:], size, strict=True))
        else:
            assert list(x.shape[2:]) == size
        assert onnx_file.relative(twin[key].transpose(0, 3, 1, 2), x) < 1e-10


@pytest.mark.parametrize("wrong", [{"frozen_stages": 9}, {"frozen_stages": -2}, {"norm": "layer"}])
@pytest.mark.parametrize("panel", ["tf_impl", "torch_impl"])
def test_bad_values_are_named(panel, wrong):
    (key,) = wrong
    with pytest.raises(ValueError, match=f"{key}="):
        importlib.import_module(f"{panel}.classification.mobilenet_v2").mobilenet_v2(**wrong)


@pytest.mark.parametrize(
    ("name", "layers", "problem"),
    [
        ("inception_v3", (4, 5, 3), r"layers are 1 to \[3, 5, 3\] blocks; layers=\[4, 5, 3\]"),
        ("inception_v3", (3, 5), r"layers are 1 to \[3, 5, 3\] blocks; layers=\[3, 5\]"),
        ("googlenet", (2, 5, 0), r"layers are 1 to \[2, 5, 2\] blocks; layers=\[2, 5, 0\]"),
        ("googlenet", (1, 3, 1), r"aux_logits=True needs block 4d: layers\[1\] of 4 or 5; layers=\[1, 3, 1\]"),
    ],
)
@pytest.mark.parametrize("panel", ["tf_impl", "torch_impl"])
def test_blocks_that_are_not_there_are_named(panel, name, layers, problem):
    with pytest.raises(ValueError, match=problem):
        getattr(importlib.import_module(f"{panel}.classification.{name}"), name)(layers=layers)
