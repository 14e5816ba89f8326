"""Gaussian YOLOv3: gradients of given maps against those of the reference's layer, and scores, in both panels."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import stored_objects
from parity_tests.harness import fingerprints

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
LEVELS = ("p5", "p4", "p3")
SQUASHED = (0, 1, 2, 3, 5, 7)  # entries of an anchor whose slope the reference leaves out


@pytest.fixture(autouse=True)
def in_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def maps_of(package, expected):
    maps = [fingerprints.inputs_of(expected)[level] for level in LEVELS]
    if package == "torch_impl":
        return {f"pred_{level}": torch.from_numpy(x).requires_grad_() for level, x in zip(LEVELS, maps)}
    return {f"pred_{level}": tf.Variable(x.transpose(0, 2, 3, 1)) for level, x in zip(LEVELS, maps)}


@both
def test_gradients_are_those_of_the_reference(package):
    expected = fingerprints.load("darknet_gaussian_yolo_layer")
    criterion = importlib.import_module(f"{package}.detection.gaussian_yolov3").GaussianYOLOV3Criterion()
    targets, outputs = stored_objects(expected), maps_of(package, expected)
    if package == "torch_impl":
        total = criterion(outputs, {key: torch.from_numpy(x) for key, x in targets.items()})["total"]
        found = [x.numpy() for x in torch.autograd.grad(total, list(outputs.values()))]
        maps = [x.detach().numpy() for x in outputs.values()]
    else:
        with tf.GradientTape() as tape:
            values = {key: tf.convert_to_tensor(x) for key, x in outputs.items()}
            total = criterion(values, {key: tf.constant(x) for key, x in targets.items()})["total"]
        found = [x.numpy().transpose(0, 3, 1, 2) for x in tape.gradient(total, list(outputs.values()))]
        maps = [x.numpy().transpose(0, 3, 1, 2) for x in outputs.values()]
    for level, x, gradient in zip(LEVELS, maps, found):
        n, columns, height, width = x.shape
        x, gradient = (y.reshape(n, 3, columns // 3, height, width) for y in (x, gradient))
        p = 1 / (1 + np.exp(-x))
        slope = np.ones_like(x)
        slope[:, :, SQUASHED] = (p * (1 - p))[:, :, SQUASHED]
        wanted = np.reshape(expected["outputs"][f"delta.{level}"]["values"], x.shape)
        np.testing.assert_allclose(-n * gradient / slope, wanted, rtol=2e-5, atol=2e-6)


@both
def test_wide_distributions_lower_the_score(package):
    maps = [np.full((1, 3 * 13, size, size), -9.0) for size in (1, 2, 4)]
    for (row, column), width in (((0, 0), -9.0), ((3, 3), 0.0)):
        anchor = maps[2][0, :13, row, column]
        anchor[0:8:2], anchor[1:8:2], anchor[8:10] = 0.0, width, 9.0
    maps = [x if package == "torch_impl" else x.transpose(0, 2, 3, 1) for x in maps]
    make = torch.from_numpy if package == "torch_impl" else tf.constant
    postprocess = importlib.import_module(f"{package}.detection.gaussian_yolov3").GaussianYOLOV3PostProcess
    found = postprocess(detections=3)({f"pred_{level}": make(x) for level, x in zip(LEVELS, maps)})
    found = {key: np.asarray(x)[0] for key, x in found.items()}
    assert found["valid"].tolist() == [True, True, False]
    np.testing.assert_allclose(found["scores"], [0.99963, 0.49988, 0], atol=1e-5)
    np.testing.assert_allclose(found["boxes"][:2], [[0.5, -1, 7.5, 9], [24.5, 23, 31.5, 33]])
    assert found["labels"].tolist() == [0, 0, 0]
