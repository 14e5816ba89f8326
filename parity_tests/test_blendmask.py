"""BlendMask: bases inside boxes and what attention makes of them against AdelaiDet; the levels of the small model."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.segmentation.blendmask import scene_targets
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

PACKAGES = {"tf_impl": tf.constant, "torch_impl": torch.tensor}


@pytest.mark.slow
@pytest.mark.parametrize("model", ("blendmask_r50", "blendmask_550_r50"))
@pytest.mark.parametrize("of", (TensorFlow, PyTorch), ids=lambda panel: panel.package)
def test_bases_of_boxes_are_pooled_and_blended_as_in_the_reference(of, model):
    expected = fingerprints.load(f"adelaidet_{model}")
    panel = of(catalog.get(model), {}, {}, None, "float32")
    panel.load(seeded(panel.shapes()))
    outputs = panel.outputs({"images": fingerprints.inputs_of(expected)["image"]})
    blendmask = importlib.import_module(f"{panel.package}.segmentation.blendmask")
    boxes, valid = (scene_targets(expected)[key] for key in ("boxes", "valid"))
    attention = outputs["top_p3"].transpose(0, 2, 3, 1).reshape(1, -1, outputs["top_p3"].shape[1])[:, : 6 * 7 : 7]
    tensor, last = PACKAGES[panel.package], panel.package == "tf_impl"
    bases = outputs["bases"].transpose(0, 2, 3, 1) if last else outputs["bases"]
    pooled = blendmask.pool_bases(tensor(bases), tensor(boxes.astype(np.float32)), 56)
    pooled = np.asarray(pooled)[valid]
    logits = np.asarray(blendmask.blend(tensor(pooled[None]), tensor(attention)))
    found = {"rois": pooled.transpose(0, 3, 1, 2) if last else pooled, "blend": logits.reshape(6, -1)}
    for name, value in found.items():
        figures = compare_with_fingerprint(name, value, expected["outputs"][name])
        assert max(figure.relative for figure in figures) < 1e-4, figures


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("criterion, levels", [("blendmask_550_criterion", 4), ("blendmask_rt_criterion", 3)])
def test_the_last_level_sees_objects_of_any_size(package, criterion, levels):
    blendmask, tensor = importlib.import_module(f"{package}.segmentation.blendmask"), PACKAGES[package]
    maps = {f"cls_p{3 + i}": np.zeros((1, 1, 24 * 2 ** (3 - i), 24 * 2 ** (3 - i))) for i in range(levels)}
    outputs = {name: tensor(x.transpose(0, 2, 3, 1) if package == "tf_impl" else x) for name, x in maps.items()}
    targets = {"boxes": tensor([[[8.0, 16.0, 1400.0, 1500.0]]]), "valid": tensor([[True]])}
    _, seen = getattr(blendmask, criterion)().assign(outputs, targets)
    by_level = np.split(np.asarray(seen)[0], np.cumsum([x.size for x in maps.values()])[:-1])
    assert [found.any() for found in by_level] == [False] * (levels - 1) + [True]
