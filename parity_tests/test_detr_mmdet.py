"""DETR with mmdet's weights, under mmdet's names: its maps, and losses and gradients with the queries that we match."""

import re

import numpy as np
import pytest

from parity_tests.cases.detection._mmdet import losses_objects
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.processing.set_matching import match_layers
from weights.seeded import seeded

EXPECTED = fingerprints.load("detr_r50_8xb2-150e_coco")
NAMES = {  # of mmdet
    r"^backbone\.": "backbone.0.body.",
    r"^neck\.convs\.0\.conv\.": "input_proj.",
    r"^query_embedding\.": "query_embed.",
    r"^bbox_head\.fc_cls\.": "class_embed.",
    r"^bbox_head\.reg_ffn\.layers\.0\.0\.": "bbox_embed.layers.0.",
    r"^bbox_head\.reg_ffn\.layers\.1\.": "bbox_embed.layers.1.",
    r"^bbox_head\.fc_reg\.": "bbox_embed.layers.2.",
    r"^(encoder|decoder)\.": r"transformer.\1.",
    r"\.post_norm\.": ".norm.",
    r"\.self_attn\.attn\.": ".self_attn.",
    r"\.cross_attn\.attn\.": ".multihead_attn.",
    r"\.ffn\.layers\.0\.0\.": ".linear1.",
    r"\.ffn\.layers\.1\.": ".linear2.",
    **{rf"\.norms\.{i}\.": f".norm{i + 1}." for i in range(3)},
}
LOSSES = {"loss_cls": ("loss_ce", 1), "loss_bbox": ("loss_bbox", 5), "loss_iou": ("loss_giou", 2)}  # and the weights


def ours(name: str) -> str:
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def whole(images) -> dict[str, np.ndarray]:
    """Images without padding."""
    return {"images": images, "padding_mask": np.zeros((len(images), *images.shape[2:]), bool)}


@pytest.fixture(scope="module", params=(TensorFlow, PyTorch), ids=lambda panel: panel.package)
def panel(request):
    found = request.param(catalog.get("detr_resnet50"), {"num_classes": 80, "dropout": 0.0}, {}, None, "float32")
    theirs = {name: tuple(shape) for name, shape in EXPECTED["tensors"] if not name.endswith("num_batches_tracked")}
    assert {ours(name): shape for name, shape in theirs.items()} == found.shapes()
    found.load({ours(name): value for name, value in seeded(theirs).items()})
    return found


@pytest.mark.slow
def test_maps_are_those_of_mmdet(panel):
    outputs = panel.outputs(whole(fingerprints.inputs_of(EXPECTED)["input"]))
    layers = [*(f"_{i}" for i in range(5)), ""]
    for name, key in (("tensor.0", "pred_logits"), ("tensor.1", "pred_boxes")):
        found = np.stack([outputs[f"{key}{layer}"] for layer in layers])
        figures = compare_with_fingerprint(name, found, EXPECTED["outputs"][name])
        assert max(figure.relative for figure in figures) < 1e-4, figures


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_mmdet(panel):
    inputs = whole(next(iter(fingerprints.loss_inputs_of(EXPECTED).values())))
    targets = losses_objects(EXPECTED)
    targets["image_size"] = np.tile(inputs["images"].shape[2:], (2, 1))
    targets["indices"] = match_layers(panel.outputs(inputs), targets)
    found = panel.losses(inputs, targets)
    for name, value in EXPECTED["loss"]["terms"].items():
        layer, _, key = name.rpartition(".")
        key, weight = LOSSES[key]
        key = f"{key}_{layer[1:]}" if layer else key
        assert weight * found[key] == pytest.approx(value, rel=1e-4), name
    gradients, wanted = panel.gradients(inputs, targets), EXPECTED["loss"]["gradients"]
    norms = [np.linalg.norm(gradients[ours(name)].astype(np.float64)) for name in wanted]
    np.testing.assert_allclose(norms, [norm for norm, _ in wanted.values()], rtol=1e-3)
