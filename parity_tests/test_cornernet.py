"""CornerNet: corner pooling, losses of given maps against the reference's number, pairs of corners, in both panels."""

import importlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.test_dense_detectors import OBJECTS

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])


@pytest.fixture(autouse=True)
def in_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def tensor(package, x):
    x = np.asarray(x)
    if package == "torch_impl":
        return torch.from_numpy(np.ascontiguousarray(x))
    return tf.constant(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)


def wave(channels, amplitude, base, phase, size=64):
    shape = (2, channels, size, size)
    flat = base + amplitude * np.sin(0.7371 * np.arange(math.prod(shape)) + phase)
    return flat.reshape(shape).astype(np.float32).astype(np.float64)


@both
def test_corner_pools_look_in_their_directions(package):
    pool = importlib.import_module(f"{package}.layers.corner_pool").corner_pool
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 10))
    expected = {
        "bottom": np.maximum.accumulate(x, 2),
        "top": np.maximum.accumulate(x[:, :, ::-1], 2)[:, :, ::-1],
        "right": np.maximum.accumulate(x, 3),
        "left": np.maximum.accumulate(x[..., ::-1], 3)[..., ::-1],
    }
    for direction, values in expected.items():
        found = np.asarray(pool(tensor(package, x), direction))
        found = found.transpose(0, 3, 1, 2) if package == "tf_impl" else found
        np.testing.assert_array_equal(found, values)
    with pytest.raises(ValueError, match="direction='up' must be one of"):
        pool(tensor(package, x), "up")


@both
def test_losses_are_those_of_the_reference(package):
    outputs = {"image_size": np.array([256, 256])}
    for stack, suffix in enumerate(("_0", "")):
        for corner, phases in (("tl", (0.1, 0.2, 0.3)), ("br", (0.5, 0.7, 0.9))):
            outputs[f"{corner}_heat{suffix}"] = wave(5, 2, -2, phases[0] + stack)
            outputs[f"{corner}_tag{suffix}"] = wave(1, 1, 0, phases[1] + stack)
            outputs[f"{corner}_regr{suffix}"] = wave(2, 0.5, 0.5, phases[2] + stack)
    criterion = importlib.import_module(f"{package}.detection.cornernet").CornerNetCriterion()
    outputs = {key: tensor(package, x) for key, x in outputs.items()}
    found = criterion(outputs, {key: tensor(package, x) for key, x in OBJECTS.items()})
    assert float(found["total"]) == pytest.approx(498.0849, rel=2e-6)
    nothing = {**OBJECTS, "valid": np.zeros_like(OBJECTS["valid"])}
    found = criterion(outputs, {key: tensor(package, x) for key, x in nothing.items()})
    assert [float(found[key]) for key in ("pull", "push", "regr")] == [0, 0, 0]
    assert np.isfinite(float(found["total"]))


@both
def test_pairs_have_one_class_like_tags_and_the_right_order(package):
    maps = {f"{c}_{k}": np.zeros((1, n, 8, 8)) for c in ("tl", "br") for k, n in (("tag", 1), ("regr", 2))}
    maps |= {f"{c}_heat": np.full((1, 2, 8, 8), -12.0) for c in ("tl", "br")}
    maps["tl_heat"][0, 1, 1, 2] = maps["br_heat"][0, 1, 5, 6] = 3.0  # a pair
    maps["br_heat"][0, 0, 6, 6] = 2.5  # another class
    maps["br_heat"][0, 1, 0, 0] = 2.0  # before its corner
    maps["br_heat"][0, 1, 7, 7], maps["br_tag"][0, 0, 7, 7] = 1.5, 0.6  # another object
    maps["tl_regr"][0, :, 1, 2] = (0.25, 0.5)
    outputs = {key: tensor(package, x) for key, x in {**maps, "image_size": np.array([31, 32])}.items()}
    module = importlib.import_module(f"{package}.detection.cornernet")
    found = module.CornerNetPostProcess(corners=4, candidates=16, detections=3, min_score=0.6)(outputs)
    found = {key: np.asarray(x)[0] for key, x in found.items()}
    assert found["valid"].tolist() == [True, False, False]
    np.testing.assert_allclose(found["boxes"][0], [2.25 * 4, 1.5 * 31 / 8, 24, 5 * 31 / 8])
    assert found["labels"].tolist() == [1, 0, 0]
    assert found["scores"][0] == pytest.approx(1 / (1 + math.exp(-3)))
