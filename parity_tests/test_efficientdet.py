"""EfficientDet's anchors, losses of given maps and results against effdet 0.4.1, in both panels."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.harness import fingerprints
from parity_tests.test_dense_detectors import OBJECTS, waves

both = pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])


@pytest.fixture(autouse=True)
def in_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy(before)


def module(package):
    return importlib.import_module(f"{package}.detection.efficientdet")


def tensors(package, arrays):
    if package == "torch_impl":
        return {key: torch.from_numpy(np.ascontiguousarray(x)) for key, x in arrays.items()}
    return {key: tf.constant(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x) for key, x in arrays.items()}


def raw_maps():
    """The maps that the fingerprints of results are made of."""
    inputs, rng = fingerprints.load("effdet_detections")["inputs"], np.random.default_rng(0)
    noise = {name: rng.standard_normal(described["shape"]).astype(np.float32) for name, described in inputs.items()}
    return {f"class_p{i + 3}": noise[f"class{i}"] * np.float32(1.5) - np.float32(3) for i in range(5)} | {
        f"box_p{i + 3}": noise[f"box{i}"] * np.float32(0.3) for i in range(5)
    }


@both
def test_anchors_are_those_of_effdet(package):
    sizes = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))
    found = [module(package).efficientdet_anchors(size, 8 * 2**i) for i, size in enumerate(sizes)]
    yxyx = np.concatenate(found)[:, [1, 0, 3, 2]]
    described = fingerprints.load("effdet_tf_efficientdet_d0")["outputs"]["anchors_yxyx"]
    flat = yxyx.ravel()
    at = np.unique(np.round(np.linspace(0, flat.size - 1, 64))).astype(int)
    assert list(yxyx.shape) == described["shape"]
    np.testing.assert_allclose(flat[at], described["values"], rtol=1e-6)


@both
def test_losses_are_those_of_effdet(package):
    maps = {f"class_p{i + 3}": x for i, x in enumerate(waves(45, 2, -2, 0.1))}
    maps |= {f"box_p{i + 3}": x for i, x in enumerate(waves(36, 0.3, 0, 0.2))}
    targets = {key: x.astype(np.float32) if key == "boxes" else x for key, x in OBJECTS.items()}
    criterion = module(package).EfficientDetCriterion()
    found = criterion(tensors(package, maps), tensors(package, targets))
    for key, value in (("class_loss", 37.324234), ("box_loss", 0.018781), ("total", 38.263302)):
        assert float(found[key]) == pytest.approx(value, rel=3e-5), key
    targets["valid"] = np.zeros_like(targets["valid"])
    found = criterion(tensors(package, maps), tensors(package, targets))
    assert float(found["box_loss"]) == 0
    assert np.isfinite(float(found["class_loss"]))


@both
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_results_are_those_of_effdet(package, soft):
    file = "effdet_detections_soft_nms" if soft else "effdet_detections"
    described = fingerprints.load(file)["outputs"]["detections_with_size"]
    maps = tensors(package, raw_maps())
    size = np.array([[120, 250], [128 / 1.5, 256 / 1.5]])
    found = module(package).EfficientDetPostProcess(soft=soft)(maps, tensors(package, {"size": size})["size"])
    found = {key: np.asarray(x) for key, x in found.items()}
    boxes = found["boxes"] * np.array([1, 1.5])[:, None, None]
    rows = np.concatenate([boxes, found["scores"][..., None], found["labels"][..., None] + 1], -1)
    assert found["valid"].all()
    flat = rows.ravel()
    at = np.unique(np.round(np.linspace(0, flat.size - 1, min(64, flat.size)))).astype(int)
    np.testing.assert_allclose(flat[at], described["values"], rtol=1e-4, atol=1e-4)
    assert np.abs(flat).max() == pytest.approx(described["absmax"], rel=1e-5)
    assert flat.mean() == pytest.approx(described["mean"], rel=1e-5)
