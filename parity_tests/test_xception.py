"""Xception with its default padding and normalisation against the network that ships with Keras."""

import keras
import numpy as np
import pytest

from parity_tests.harness.panels import PyTorch, TensorFlow
from scripts import keras_files
from weights import catalog, onnx_file
from weights.seeded import seeded, seeded_image

IMAGE = {"images": seeded_image(2, 98, 83)}  # an even and an odd side: the pools pad them differently
LEAVES = {
    "Conv2D": ["weight"],
    "SeparableConv2D": ["conv1.weight", "pointwise.weight"],
    "BatchNormalization": ["weight", "bias", "running_mean", "running_var"],
    "Dense": ["weight", "bias"],
}
# from (out, in, kh, kw) and (out, in); a depthwise kernel is (channels, 1, kh, kw) and becomes (kh, kw, channels, 1)
AXES = {"conv1.weight": (2, 3, 0, 1), 4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


@pytest.fixture(scope="module")
def expected():
    """Seeded tensors by our names, and the logits of Keras' network with them."""
    network = keras.applications.Xception(
        weights=None, input_shape=(*IMAGE["images"].shape[2:], 3), classes=10, classifier_activation=None
    )
    panel = PyTorch(catalog.get("xception"), {"num_classes": 10}, precision="float32")
    tensors = seeded(panel.shapes())
    shortcuts = iter(keras_files.SHORTCUTS)
    for layer in network.layers:
        if layer.weights:
            name = keras_files.in_xception(layer.name) or next(shortcuts)
            values = {leaf: tensors[f"{name}.{leaf}"] for leaf in LEAVES[type(layer).__name__]}
            layer.set_weights([x.transpose(AXES.get(leaf) or AXES[x.ndim]) for leaf, x in values.items()])
    assert next(shortcuts, None) is None
    trainable = sum(int(np.prod(variable.shape)) for variable in network.trainable_weights)
    assert trainable == panel.parameters()
    return tensors, np.asarray(network(IMAGE["images"].transpose(0, 2, 3, 1), training=False))


@pytest.mark.parametrize("kind", [TensorFlow, PyTorch], ids=["tensorflow", "pytorch"])
def test_default_form_is_the_one_of_keras(kind, expected):
    tensors, logits = expected
    panel = kind(catalog.get("xception"), {"num_classes": 10}, precision="float32")
    panel.load(tensors)
    assert onnx_file.relative(panel.outputs(IMAGE)["logits"], logits) < 1e-5


@pytest.mark.parametrize("options", [{"pad_mode": "torch"}, {"bn_eps": 1e-5}])
def test_other_forms_are_other_functions(options, expected):
    tensors, logits = expected
    panel = PyTorch(catalog.get("xception"), {"num_classes": 10, **options}, precision="float32")
    panel.load(tensors)
    assert onnx_file.relative(panel.outputs(IMAGE)["logits"], logits) > 1e-4


def test_padding_has_two_forms():
    for kind in (TensorFlow, PyTorch):
        with pytest.raises(ValueError, match="pad_mode='valid'"):
            kind(catalog.get("xception"), {"pad_mode": "valid"})
