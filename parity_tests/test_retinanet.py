"""RetinaNet: detections, losses and gradients of the references, its checkpoint, classes, start and ONNX file."""

import importlib
from functools import cache, lru_cache

import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import tf_impl.state
import torch_impl.state
from parity_tests.boxes import TF, TORCH
from parity_tests.cases.detection import padded, stored_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.case import get
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file, store
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")


@cache
def fingerprint(name):
    return fingerprints.load(name)


@lru_cache(maxsize=2)
def published(name, package, precision):
    """A published model with the seeded weights."""
    panel = {"tf_impl": TensorFlow, "torch_impl": PyTorch}[package]
    built = panel(catalog.get(name), {}, precision=precision)
    built.load(seeded(built.shapes()))
    return built


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_detections_of_torchvision(name, package):
    """Boxes, scores and labels of two images, in order, with ``detections_per_img=30``."""
    expected = fingerprint(f"torchvision_{name}_detections")
    panel = published(name, package, "float32")
    module = importlib.import_module(f"{package}.detection.retinanet")
    panel.postprocess = module.RetinaNetPostProcess(detections=30)
    found = panel.results({"images": fingerprints.inputs_of(expected)["image"]})
    assert found["valid"].all()
    for i in range(2):
        for key in ("boxes", "scores", "labels"):
            described = expected["outputs"][f"detections.{i}.{key}"]
            for figure in compare_with_fingerprint(key, found[key][i], described):
                assert figure.relative < (1e-7 if key == "labels" else 1e-4), (i, figure)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_losses_and_gradients_of_torchvision_in_float64(name, package):
    """Where no ReLU changes sides by rounding, the figures are those of the stored digits."""
    expected = fingerprint(f"torchvision_{name}")
    panel = published(name, package, "float64")
    inputs = {"images": fingerprints.inputs_of(expected)["image"]}
    check_losses(panel, inputs, stored_objects(expected), expected["loss"], 1e-5)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
@pytest.mark.parametrize("precision, bound", [("float32", 1e-3), pytest.param("float64", 1e-5, marks=pytest.mark.slow)])
def test_losses_and_gradients_of_mmdet(precision, bound, package):
    expected = fingerprint("retinanet_r50_fpn_1x_coco")["loss"]
    terms = {}
    for key, value in expected["terms"].items():  # mmdet's are by level
        terms[key.split(".")[0]] = terms.get(key.split(".")[0], 0.0) + value
    objects = [(np.array(b), np.array(k)) for b, k in zip(*(expected["targets"][key] for key in ("boxes", "labels")))]
    images = np.random.default_rng(0).standard_normal((2, 3, 128, 128)).astype(np.float32)
    panel = published("retinanet_r50_fpn_mmdet", package, precision)
    check_losses(panel, {"images": images}, padded(objects), {**expected, "terms": terms}, bound)


def check_losses(panel, inputs, targets, expected, bound):
    losses = panel.losses(inputs, targets)
    for key, value in expected["terms"].items():
        assert losses[key] == pytest.approx(value, rel=1e-6), key
    gradients = panel.gradients(inputs, targets)
    for name, (norm, mean) in expected["gradients"].items():
        assert np.linalg.norm(gradients[name]) == pytest.approx(norm, rel=bound), name
        assert gradients[name].mean() == pytest.approx(mean, rel=10 * bound, abs=0.1 * bound * norm), name


def test_official_checkpoint_fits_by_its_old_names():
    """torchvision's file of the first variant has the names of 2020, and frozen normalisation without epsilon."""
    checkpoint = catalog.get("retinanet_resnet50_fpn").checkpoint()
    with torch.device("meta"):
        model = TORCH.retinanet.retinanet_resnet50_fpn(**checkpoint.options)
    assert sum(p.numel() for p in model.parameters()) == 34_014_999
    assert model.backbone.body.layer4[2].bn3.eps == 0
    names = list(model.state_dict())
    old = []
    for name in names:
        parts = name.split(".")
        if parts[2] in ("inner_blocks", "layer_blocks"):
            parts = [*parts[:4], parts[5]]
        if parts[2] == "conv":
            parts = [*parts[:3], str(2 * int(parts[3])), parts[5]]
        old.append(".".join(parts))
    assert "head.classification_head.conv.6.weight" in old and "backbone.fpn.inner_blocks.2.bias" in old
    stored = dict.fromkeys([*old, "backbone.body.bn1.num_batches_tracked"], np.zeros(1))
    assert list(store.rename(stored, checkpoint.rename)) == names
    assert list(store.rename(dict.fromkeys(names, np.zeros(1)), checkpoint.rename)) == names


def test_classes_have_the_numbers_of_coco():
    names = (fingerprints.FOLDER.parents[1] / "weights" / "classes" / "coco91.txt").read_text().splitlines()
    assert len(names) == 91 and names[0] == "__background__" and names.count("N/A") == 10
    expected = ["person", "stop sign", "backpack", "bottle", "dining table", "toothbrush"]
    assert [names[i] for i in (1, 13, 27, 44, 67, 90)] == expected


def test_initial_probability_of_every_class_is_one_percent():
    (case,) = get("retinanet_resnet50_fpn_v2")
    ours = TF.retinanet.retinanet_resnet50_fpn_v2(**case.options)
    theirs = TORCH.retinanet.retinanet_resnet50_fpn_v2(**case.options)
    ours(tf.zeros((1, 64, 64, 3)))
    for found in (tf_impl.state.state_dict(ours), torch_impl.state.state_dict(theirs)):
        bias = found["head.classification_head.cls_logits.bias"]
        np.testing.assert_allclose(1 / (1 + np.exp(-bias)), 0.01, rtol=1e-5)
        assert 0.009 < found["head.regression_head.bbox_reg.weight"].std() < 0.011


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_results_in_onnx_use_the_operator(package, tmp_path):
    """One NonMaxSuppression and a TopK for each level; one file serves any batch."""
    (case,) = get("retinanet_r50_fpn_mmdet")
    panel = {"tf_impl": TensorFlow, "torch_impl": PyTorch}[package]
    rng = np.random.default_rng(0)
    inputs = case.inputs(rng, 2)
    built = panel(case.entry, case.options, postprocess=case.postprocess, precision="float32")
    built.load(seeded(built.shapes()))
    path = built.export(tmp_path / "results.onnx", inputs, None, {}, results=True)
    operators = onnx_file.histogram(onnx.load(path))
    assert (operators["NonMaxSuppression"], operators["TopK"], operators["Loop"]) == (1, 5, 0)
    session = onnx_file.session(path, threads=1)
    for batch in (1, 3):
        given = {key: value.astype(np.float32) for key, value in case.inputs(rng, batch).items()}
        found, expected = onnx_file.run(session, given), built.results(given)
        for key in ("valid", "labels"):
            np.testing.assert_array_equal(found[key], expected[key])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
