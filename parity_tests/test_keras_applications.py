"""Models whose public implementation is ``keras.applications``: it runs here, on the weights of both panels."""

import keras
import numpy as np
import pytest

from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file
from weights.seeded import seeded


def assign(network, tensors):
    """Give a Keras network tensors with PyTorch's names and layouts; layers without a tensor have no weights."""
    prefixes = {name.rpartition(".")[0] for name in tensors}
    assert prefixes == {layer.name for layer in network.layers if layer.weights}
    for prefix in prefixes:
        layer = network.get_layer(prefix)
        given = {name.rpartition(".")[2]: value for name, value in tensors.items() if name.rpartition(".")[0] == prefix}
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [given[key] for key in ("weight", "bias", "running_mean", "running_var")]
        else:
            axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
            values = [given["weight"].transpose(axes), *([given["bias"]] if "bias" in given else [])]
        layer.set_weights(values)


@pytest.mark.parametrize("alpha, size", [(0.5, (97, 130)), (0.25, (64, 65))])
def test_mobilenet(alpha, size):
    entry = catalog.get("mobilenet_v1")
    images = np.random.default_rng(0).standard_normal((2, 3, *size))
    panels = [panel(entry, {"width": alpha}, precision="float32") for panel in (TensorFlow, PyTorch)]
    tensors = seeded(panels[1].shapes())
    network = keras.applications.MobileNet((*size, 3), alpha, weights=None, classifier_activation=None)
    assign(network, tensors)
    expected = network(images.transpose(0, 2, 3, 1).astype(np.float32)).numpy()
    for panel in panels:
        panel.load(tensors)
        assert onnx_file.relative(panel.outputs({"images": images})["logits"], expected) <= 1e-5
