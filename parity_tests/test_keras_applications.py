"""Models whose public implementation is ``keras.applications``: it runs here, and both panels read its files."""

import keras
import numpy as np
import pytest

from parity_tests.harness.panels import PyTorch, TensorFlow
from scripts import files
from scripts.output import Problem
from weights import catalog, onnx_file, store


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
@pytest.mark.parametrize("name, alpha", [("mobilenet_v1_025", 0.25), ("mobilenet_v1_050", 0.5), ("xception", None)])
def test_weights_that_keras_saved_convert(name, alpha, suffix, tmp_path):
    shape = {"input_shape": (71, 79, 3), "weights": None, "classes": 10, "classifier_activation": None}
    network = keras.applications.MobileNet(alpha=alpha, **shape) if alpha else keras.applications.Xception(**shape)
    rng = np.random.default_rng(0)
    values = network.get_weights()
    network.set_weights([x if x.ndim > 1 else rng.uniform(0.8, 1.2, x.shape).astype(np.float32) for x in values])
    (network.save_weights if suffix == ".weights.h5" else network.save)(tmp_path / f"saved{suffix}")
    target = tmp_path / "ours.safetensors"
    files.convert(tmp_path / f"saved{suffix}", target, name, None, True, {"num_classes": 10})
    images = rng.standard_normal((2, 3, 71, 79)).astype(np.float32)
    expected = network(images.transpose(0, 2, 3, 1)).numpy()
    for kind in (TensorFlow, PyTorch):
        panel = kind(catalog.get(name), {"num_classes": 10}, precision="float32")
        panel.load(store.load(target))
        assert onnx_file.relative(panel.outputs({"images": images})["logits"], expected) <= 1e-5


def test_what_keras_saved_of_another_network_is_refused(tmp_path):
    keras.applications.MobileNet(alpha=0.5, weights=None, classes=10).save(tmp_path / "half.keras")
    with pytest.raises(Problem, match=r"no weights of keras\.applications\.MobileNet, nor of mobilenet_v1_025"):
        files.convert(tmp_path / "half.keras", tmp_path / "x.pth", "mobilenet_v1_025", None, True, {"num_classes": 10})
    assert not (tmp_path / "x.pth").exists()
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "fingerprint.pb").write_bytes(b"not a tensor")
    with pytest.raises(Problem, match="a folder; a file of weights was expected"):
        files.convert(tmp_path / "served", tmp_path / "x.pth", "mobilenet_v1", None, True)
