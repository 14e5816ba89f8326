"""YOLOv4-tiny: gradients of given maps against those of the reference's layer, and the CIoU loss, in both panels."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import stored_objects
from parity_tests.harness import fingerprints

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
LEVELS = ("p5", "p4")


@pytest.fixture(autouse=True)
def in_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@both
@pytest.mark.parametrize("anchors, likeness", [("one", 1.0), ("several", 0.213)])
def test_gradients_of_objects_and_classes_are_those_of_the_reference(package, anchors, likeness):
    expected = fingerprints.load("darknet_yolo_layer")
    criterion = importlib.import_module(f"{package}.detection.yolov4_tiny").YOLOV4TinyCriterion(likeness=likeness)
    targets, maps = stored_objects(expected), [fingerprints.inputs_of(expected)[level] for level in LEVELS]
    if package == "torch_impl":
        outputs = {f"pred_{level}": torch.from_numpy(x).requires_grad_() for level, x in zip(LEVELS, maps)}
        total = criterion(outputs, {key: torch.from_numpy(x) for key, x in targets.items()})["total"]
        found = [x.numpy() for x in torch.autograd.grad(total, list(outputs.values()))]
    else:
        outputs = {f"pred_{level}": tf.Variable(x.transpose(0, 2, 3, 1)) for level, x in zip(LEVELS, maps)}
        with tf.GradientTape() as tape:
            values = {key: tf.convert_to_tensor(x) for key, x in outputs.items()}
            total = criterion(values, {key: tf.constant(x) for key, x in targets.items()})["total"]
        found = [x.numpy().transpose(0, 3, 1, 2) for x in tape.gradient(total, list(outputs.values()))]
    for level, gradient in zip(LEVELS, found):
        n, columns, height, width = gradient.shape
        wanted = np.reshape(expected["outputs"][f"{anchors}.{level}"]["values"], (n, 3, columns // 3, height, width))
        gradient = -n * gradient.reshape(wanted.shape)
        np.testing.assert_allclose(gradient[:, :, 4:], wanted[:, :, 4:], rtol=1e-5, atol=1e-6)
        assert ((gradient[:, :, :4] != 0).any(2) <= (gradient[:, :, 4] > 0)).all()  # boxes have a loss at objects only


@both
def test_a_box_that_is_right_costs_nothing(package):
    maps = [np.zeros((1, 3 * 9, 2 * size, 3 * size)) for size in (1, 2)]
    boxes = np.array([[[16 - 23 / 2, 16 - 27 / 2, 16 + 23 / 2, 16 + 27 / 2]]])  # around the corner of four cells
    targets = {"boxes": boxes, "labels": np.zeros((1, 1), np.int64), "valid": np.ones((1, 1), bool)}
    maps[1].reshape(1, 3, 9, 4, 6)[:, 0, :2, 1, 1] = np.log(0.025 / 1.05 / (1 - 0.025 / 1.05))  # the cell's corner
    if package == "tf_impl":
        maps, make = [x.transpose(0, 2, 3, 1) for x in maps], tf.constant
    else:
        make = torch.from_numpy
    criterion = importlib.import_module(f"{package}.detection.yolov4_tiny").YOLOV4TinyCriterion()
    outputs = {f"pred_{level}": make(np.ascontiguousarray(x)) for level, x in zip(LEVELS, maps)}
    found = criterion(outputs, {key: make(x) for key, x in targets.items()})
    assert float(found["loss_box"]) == pytest.approx(0, abs=1e-6)
    assert float(found["loss_class"]) == pytest.approx(4 * np.log(2))
