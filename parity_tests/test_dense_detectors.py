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


POINTS = {"moment": (41.583344, 0.641596, 0.319652), "minmax": (31.039015, 0.525288, 0.454774)}
POINTS["partial_minmax"] = (47.093521, 0.667069, 0.677421)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("method", POINTS)
def test_losses_of_points_are_those_of_mmdet(package, method):
    boxes_of_points = importlib.import_module(f"{package}.detection.reppoints").boxes_of_points
    outputs = {f"cls_p{i + 3}": x for i, x in enumerate(CLASSES)}
    for key, maps in (("init", waves(18, 2, 0, 0.2)), ("reg", waves(18, 2, 0.2, 0.4))):
        for i, points in enumerate(maps):
            if package == "torch_impl":
                found = boxes_of_points(torch.from_numpy(points), method, torch.zeros(2)).numpy()
            else:
                found = boxes_of_points(tf.constant(points.transpose(0, 2, 3, 1)), method, tf.zeros(2))
                found = found.numpy().transpose(0, 3, 1, 2)
            outputs[f"{key}_p{i + 3}"] = found
    found = losses_of(package, "reppoints", "RepPointsCriterion", outputs)
    assert found.pop("total") == pytest.approx(sum(POINTS[method]), rel=2e-6)
    assert list(found.values()) == pytest.approx(POINTS[method], rel=2e-6)


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


def rows_of_anchors(package: str) -> dict[str, np.ndarray]:
    """RetinaNet's outputs, in rows of anchors."""
    anchors = importlib.import_module(f"{package}.boxes.anchors")
    maps = {"cls_logits": (5, waves(45, 2, -2, 0.1)), "bbox_regression": (4, waves(36, 0.3, 0, 0.2))}
    outputs = {}
    for key, (columns, levels) in maps.items():
        rows = [x.reshape(2, 9, columns, *x.shape[2:]).transpose(0, 3, 4, 1, 2) for x in levels]
        outputs[key] = np.concatenate([x.reshape(2, -1, columns) for x in rows], 1)
    for i, size in enumerate(SIZES):
        stride = 256 // size
        cell = anchors.cell_anchors([4 * stride * 2 ** (k / 3) for k in range(3)], (0.5, 1.0, 2.0))
        outputs[f"anchors_p{i + 3}"] = anchors.grid_anchors(cell, (size, size), (stride, stride)).astype(np.float32)
    return outputs


# in single precision, in which the reference found which anchors are equally good for an object
@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_harmonised_losses_and_their_counts_are_those_of_mmdet(package):
    given = tf.constant if package == "tf_impl" else torch.from_numpy
    outputs = {key: given(np.ascontiguousarray(x)) for key, x in rows_of_anchors(package).items()}
    outputs |= {key: given(np.zeros(n, np.float32)) for key, n in (("acc_cls", 30), ("acc_bbox", 10))}
    targets = {key: given(x.astype(np.float32) if key == "boxes" else x) for key, x in OBJECTS.items()}
    criterion = importlib.import_module(f"{package}.detection.ghm").GHMCriterion()
    # six elements are at 1/2, an edge of two bins, and TensorFlow's sigmoid of them is a unit in the last place less
    close = {"rel": 1e-3 if package == "tf_impl" else 2e-6}
    for expected in ((7.449273, 3.121473), (3.968418, 1.600720)):
        found, (outputs["acc_cls"], outputs["acc_bbox"]) = criterion.losses_and_counts(outputs, targets)
        assert [float(found[key]) for key in ("loss_cls", "loss_bbox")] == pytest.approx(expected, **close)
    counts = [float(x) for x in outputs["acc_cls"][:4]]
    assert counts == pytest.approx((3446.085, 1802.111, 955.5666, 685.9078), rel=1e-6)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_losses_of_bags_are_those_of_mmdet(package):
    given = tf.constant if package == "tf_impl" else torch.from_numpy
    outputs = {key: given(np.ascontiguousarray(x)) for key, x in rows_of_anchors(package).items()}
    targets = {key: given(x.astype(np.float32) if key == "boxes" else x) for key, x in OBJECTS.items()}
    found = importlib.import_module(f"{package}.detection.freeanchor").FreeAnchorCriterion()(outputs, targets)
    # equal overlaps at rank fifty: which anchors are in the bags of some objects is not defined by the reference
    assert float(found["positive_bag_loss"]) == pytest.approx(2.662111, rel=1e-3)
    assert float(found["negative_bag_loss"]) == pytest.approx(7.430376, rel=2e-6)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_harmonised_weights_without_momentum_or_elements(package):
    given = tf.constant if package == "tf_impl" else torch.from_numpy
    weights_of = importlib.import_module(f"{package}.losses.ghm").harmonized_weights
    size, counts = given(np.array([0.05, 0.07, 0.95])), given(np.array([7.0, 5.0]))
    weights, found = weights_of(size, given(np.ones(3, bool)), counts, 0.0)
    assert [float(x) for x in weights] == pytest.approx([0.75, 0.75, 1.5])  # 3 elements, and 2 bins that have some
    assert [float(x) for x in found] == [2, 1]
    weights, found = weights_of(size, given(np.zeros(3, bool)), counts, 0.75)
    assert [float(x) for x in weights] == [0, 0, 0]
    assert [float(x) for x in found] == [7, 5]


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
