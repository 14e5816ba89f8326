"""One-stage detectors after mmdet: losses of given maps against its numbers, and refused options, in both panels."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import padded

SIZES = (32, 16, 8, 4, 2)  # of the levels of an image of 256 x 256

OBJECTS = padded(
    [
        (
            np.array(
                [[12.3, 20.1, 100.7, 90.9], [30, 40, 62, 75.5], [150.2, 100.3, 250.1, 240.8], [5.5, 200, 25, 225.0]]
            ),
            np.array([1, 0, 4, 2]),
        ),
        (np.array([[60, 60, 200, 210], [64.4, 70.2, 110.9, 140.6]]), np.array([3, 3])),
    ]
)


def waves(channels: int, scale: float, shift: float, phase: float) -> list[np.ndarray]:
    """Maps (2, channels, s, s) of every level: a sine of the position in memory."""
    found = []
    for level, size in enumerate(SIZES):
        shape = (2, channels, size, size)
        wave = shift + scale * np.sin(0.7371 * np.arange(np.prod(shape)) + phase + level)
        found.append(wave.reshape(shape).astype(np.float32))
    return found


CLASSES, CENTRES = waves(5, 2, -2, 0.1), waves(1, 1, 0, 0.3)
POSITIVE = [np.maximum(x, 0) for x in waves(4, 1, 1.5, 0.2)]

# module, criterion, distances, whether there is centredness, losses that mmdet 3.3.0 gives
KNOWN = [
    ("fcos", "FCOSCriterion", [np.exp(x) for x in waves(4, 0.5, 2.5, 0.2)], True, (2.058527, 2.626173, 0.735805)),
    ("fcos", "fcos_improved_criterion", POSITIVE, True, (7.990096, 0.792536, 0.686018)),
    ("atss", "ATSSCriterion", waves(4, 0.8, 0, 0.2), True, (8.241637, 0.913095, 0.685252)),
    ("gfl", "GFLCriterion", waves(68, 1, 0, 0.2), False, (10.526725, 1.535117, 0.760221)),
    ("fsaf", "FSAFCriterion", [np.maximum(x, 0) for x in waves(4, 0.4, 0.4, 0.2)], False, (16.937683, 1.080306)),
    ("foveabox", "FoveaCriterion", waves(4, 1, 0, 0.2), False, (13.707396, 2.547403)),
]


def maps_of(distances, central: bool) -> dict[str, np.ndarray]:
    kinds = {"cls": CLASSES, "reg": distances} | ({"ctr": CENTRES} if central else {})
    return {f"{kind}_p{i + 3}": x for kind, maps in kinds.items() for i, x in enumerate(maps)}


def losses_of(package: str, module: str, criterion: str, outputs, **options) -> dict[str, float]:
    made = getattr(importlib.import_module(f"{package}.detection.{module}"), criterion)(**options)
    targets = {key: value.astype(np.float32) if key == "boxes" else value for key, value in OBJECTS.items()}
    if package == "torch_impl":
        given = [{key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in d.items()} for d in (outputs, targets)]
    else:
        outputs = {key: x.transpose(0, 2, 3, 1) for key, x in outputs.items()}
        given = [{key: tf.constant(v) for key, v in d.items()} for d in (outputs, targets)]
    return {key: float(value) for key, value in made(*given).items()}


@pytest.fixture(autouse=True)
def in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize(("module", "criterion", "distances", "central", "expected"), KNOWN, ids=[k[1] for k in KNOWN])
def test_losses_are_those_of_mmdet(package, module, criterion, distances, central, expected):
    found = losses_of(package, module, criterion, maps_of(distances, central))
    total = found.pop("total")
    assert list(found.values()) == pytest.approx(expected, rel=2e-6)
    assert total == pytest.approx(sum(expected), rel=2e-6)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_no_object_at_all_is_finite(package, monkeypatch):
    monkeypatch.setitem(OBJECTS, "valid", np.zeros_like(OBJECTS["valid"]))
    for module, criterion, distances, central, _ in KNOWN:
        found = losses_of(package, module, criterion, maps_of(distances, central))
        assert np.isfinite(list(found.values())).all(), criterion
        assert found["loss_bbox"] == 0, criterion


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_options_that_do_not_exist_are_named(package):
    fcos, dense = (importlib.import_module(f"{package}.detection.{name}") for name in ("fcos", "_dense"))
    with pytest.raises(ValueError, match="box_loss='l1' must be 'iou' or 'giou'"):
        fcos.FCOSCriterion(box_loss="l1")
    with pytest.raises(ValueError, match=r"depth=7 must be one of \[18, 50, 101\]"):
        dense.dense_backbone(7)
