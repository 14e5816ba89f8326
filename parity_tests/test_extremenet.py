"""ExtremeNet: edge aggregation, rules for four points, and ghosts, in both panels."""

import importlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
SIZE = 32


@pytest.fixture(autouse=True)
def in_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def tensor(package, x):
    if package == "torch_impl":
        return torch.from_numpy(np.ascontiguousarray(x))
    return tf.constant(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)


def aggregated(heat, axis):
    """The reference's recurrence, place after place."""
    lines, total = np.moveaxis(heat, axis, 0), np.moveaxis(heat, axis, 0).copy()
    for order in (range(len(lines)), range(len(lines))[::-1]):
        before = None
        for i in order:
            running = lines[i].copy()
            if before is not None:
                running += np.where(lines[i] >= lines[before[0]], before[1], 0)
            total[i] += 0.1 * (running - lines[i])
            before = (i, running)
    return np.moveaxis(total, 0, axis)


@both
@pytest.mark.parametrize("along_rows", [True, False])
def test_edges_are_summed_as_long_as_they_rise(package, along_rows):
    function = importlib.import_module(f"{package}.detection.extremenet").edge_aggregation
    heat = np.random.default_rng(0).integers(0, 4, (2, 3, 9, 13)) / 4  # many equal neighbours
    axis = 3 if along_rows else 2
    found = np.asarray(function(tensor(package, heat), axis if package == "torch_impl" else axis - 1))
    found = found.transpose(0, 3, 1, 2) if package == "tf_impl" else found
    np.testing.assert_allclose(found, aggregated(heat, axis), rtol=1e-14)


def results(package, boxes, centres, **options):
    """Results of maps with the middles of the sides of boxes, and with centres; all (class, x1, y1, x2, y2, logit)."""
    maps = {f"{side}_heat": np.full((1, 2, SIZE, SIZE), -12.0) for side in ("t", "l", "b", "r", "ct")}
    maps |= {f"{side}_regr": np.full((1, 2, SIZE, SIZE), 0.25) for side in "tlbr"}
    for label, x1, y1, x2, y2, logit in boxes:
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        for side, row, column in (("t", y1, x), ("l", y, x1), ("b", y2, x), ("r", y, x2)):
            maps[f"{side}_heat"][0, label, row, column] = logit
    for label, x1, y1, x2, y2, logit in centres:
        maps["ct_heat"][0, label, (y1 + y2) // 2, (x1 + x2) // 2] = logit
    outputs = {key: tensor(package, x) for key, x in {**maps, "image_size": np.array([127, 128])}.items()}
    module = importlib.import_module(f"{package}.detection.extremenet")
    found = module.ExtremeNetPostProcess(points=6, candidates=200, detections=6, sigma=9.0, **options)(outputs)
    return {key: np.asarray(x)[0] for key, x in found.items()}


@both
def test_four_points_have_one_class_their_order_and_a_centre(package):
    whole, without_centre = (1, 3, 2, 12, 10, 2.0), (1, 20, 14, 28, 29, 1.5)
    found = results(package, [whole, without_centre], [whole, (0, *without_centre[1:])])
    assert found["valid"].tolist() == [True] + 5 * [False]
    down = 127 / SIZE
    np.testing.assert_allclose(found["boxes"][0], [3.25 * 4, 2.25 * down, 12.25 * 4, 10.25 * down])
    points = np.array([[7.25, 2.25], [3.25, 6.25], [7.25, 10.25], [12.25, 6.25]]) * (4, down)
    np.testing.assert_allclose(found["extremes"][0], points)
    assert found["labels"].tolist() == [1, 0, 0, 0, 0, 0]
    assert found["scores"][0] == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-3)  # of six, aggregation adds little


@both
def test_a_box_around_several_of_its_class_loses_half_its_score(package):
    small = [(0, 2, 2, 7, 6, 2.0), (0, 2, 20, 7, 26, 2.0), (0, 20, 2, 27, 6, 2.0)]
    around = (0, 1, 1, 29, 28, 1.5)
    plain = results(package, [*small, around], [*small, around], ghost_factor=9.0)
    found = results(package, [*small, around], [*small, around])
    area = (plain["boxes"][:, 2] - plain["boxes"][:, 0]) * (plain["boxes"][:, 3] - plain["boxes"][:, 1])
    best = np.argmax(area)
    assert plain["valid"].sum() == found["valid"].sum()
    row = np.flatnonzero((found["boxes"] == plain["boxes"][best]).all(-1)).item()
    assert found["scores"][row] == pytest.approx(plain["scores"][best] / 2)
    assert (np.diff(found["scores"]) <= 0).all()
