"""YOLOv1: gradients of given results against those of the reference's layer, in both panels."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.detection import stored_objects
from parity_tests.harness import fingerprints

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])


@pytest.fixture(autouse=True)
def in_float64():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


@both
def test_gradients_are_those_of_the_reference(package):
    expected = fingerprints.load("darknet_detection_layer")
    criterion = importlib.import_module(f"{package}.detection.yolov1").YOLOV1Criterion(side=3)
    targets, predictions = stored_objects(expected), fingerprints.inputs_of(expected)["predictions"]
    if package == "torch_impl":
        predictions = torch.from_numpy(predictions).requires_grad_()
        total = criterion(predictions, {key: torch.from_numpy(x) for key, x in targets.items()})["total"]
        (found,) = torch.autograd.grad(total, predictions)
    else:
        predictions = tf.Variable(predictions)
        with tf.GradientTape() as tape:
            values = tf.convert_to_tensor(predictions)
            total = criterion(values, {key: tf.constant(x) for key, x in targets.items()})["total"]
        found = tape.gradient(total, predictions)
    wanted = np.reshape(expected["outputs"]["delta"]["values"], found.shape)
    np.testing.assert_allclose(-len(wanted) * np.asarray(found), wanted, rtol=1e-5, atol=1e-7)
