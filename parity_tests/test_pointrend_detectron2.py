"""PointRend with the authors' weights, under detectron2's names: boxes, coarse and refined masks, losses, gradients."""

import re

import numpy as np
import pytest
import torch

from parity_tests.cases.detection import padded
from parity_tests.cases.detection._masks import ellipses, golden_points
from parity_tests.cases.gan._common import filled_by_other_names
from parity_tests.cases.segmentation.pointrend_authors import DETECTRON2
from parity_tests.cases.segmentation.polarmask import SCENE
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from torch_impl.detection.pointrend import PointRendCriterion
from weights import catalog

FILE = "detectron2_pointrend_rcnn_r50_fpn"
EXPECTED = fingerprints.load(FILE)
NAMES = DETECTRON2 | {
    r"^proposal_generator\.rpn_head\.conv\.": "rpn_head.rpn_conv.",
    r"^proposal_generator\.rpn_head\.objectness_logits\.": "rpn_head.rpn_cls.",
    r"^proposal_generator\.rpn_head\.anchor_deltas\.": "rpn_head.rpn_reg.",
    r"^roi_heads\.box_predictor\.cls_score\.": "roi_head.bbox_head.fc_cls.",
    r"^roi_heads\.box_predictor\.bbox_pred\.": "roi_head.bbox_head.fc_reg.",
    **{rf"^roi_heads\.box_head\.fc{i + 1}\.": f"roi_head.bbox_head.shared_fcs.{i}." for i in range(2)},
    r"^roi_heads\.mask_head\.coarse_head\.reduce_spatial_dim_conv\.": "roi_head.mask_head.downsample_conv.conv.",
    **{rf"^roi_heads\.mask_head\.coarse_head\.fc{i + 1}\.": f"roi_head.mask_head.fcs.{i}." for i in range(2)},
    r"^roi_heads\.mask_head\.coarse_head\.prediction\.": "roi_head.mask_head.fc_logits.",
    **{rf"^roi_heads\.mask_head\.point_head\.fc{i + 1}\.": f"roi_head.point_head.fcs.{i}.conv." for i in range(3)},
    r"^roi_heads\.mask_head\.point_head\.predictor\.": "roi_head.point_head.fc_logits.",
}
LOSSES = {"loss_mask": "loss_mask", "loss_mask_point": "loss_point"}
BOXES = np.array([[[8, 10, 60, 78], [52, 6, 120, 50]], [[4, 18, 47, 92], [0, 0, 0, 0]]], np.float32)
CLASSES = np.array([[3, 0], [15, 0]])
REAL = np.array([[True, True], [True, False]])


def ours(name: str) -> str:
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def made(panel):
    """The panel with the reference's weights, its tensors of the image and the boxes, and the levels."""
    images = {"images": fingerprints.inputs_of(EXPECTED)["image"]}
    found = panel(catalog.get("point_rend_r50_caffe_fpn"), {}, None, {}, "float32", example=images)
    theirs = {ours(name): tuple(shape) for name, shape in EXPECTED["tensors"]}
    known = {name: shape for name, shape in found.shapes().items() if not name.endswith("num_batches_tracked")}
    assert theirs == known
    found.load(filled_by_other_names(FILE, NAMES)(found.state()))
    tensors = found.tensors(images | {"boxes": BOXES, "labels": CLASSES})
    return found, tensors, found.model.neck(found.model.backbone(tensors["images"]))


def numbers(x):
    return np.asarray(x.detach() if hasattr(x, "detach") else x)


@pytest.mark.parametrize(
    "kind", [pytest.param(TensorFlow, marks=pytest.mark.slow), PyTorch], ids=["tensorflow", "pytorch"]
)
def test_boxes_and_masks_are_those_of_detectron2(kind):
    panel, tensors, levels = made(kind)
    model, boxes, found = panel.model, tensors["boxes"], {}
    for i, (name, level) in enumerate(levels.items()):
        logits, deltas = model.rpn_head.maps(level)
        maps = {f"fpn.{name}": level, f"rpn_logits.{i}": logits, f"rpn_deltas.{i}": deltas}
        found |= {key: numbers(x) if kind is PyTorch else np.moveaxis(numbers(x), -1, 1) for key, x in maps.items()}
    coarse = model.roi_head.segment(levels, boxes)
    refined = numbers(model.roi_head.refine(levels, boxes, coarse, tensors["labels"]))[:, :, None]
    masks = 1 / (1 + np.exp(-refined))
    scores, deltas = (numbers(x).reshape(2, 2, -1)[REAL] for x in model.roi_head.classify(levels, boxes))
    found |= {"box_scores": scores, "box_deltas": deltas, "coarse": numbers(coarse)[REAL]}
    found |= {"masks.0": masks[0], "masks.1": masks[1, :1]}
    assert found.keys() == EXPECTED["outputs"].keys()
    for name, value in found.items():
        for figure in compare_with_fingerprint(name, value, EXPECTED["outputs"][name]):
            assert figure.relative < 1e-4, figure


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_detectron2():
    """In PyTorch only, as those of the other detectors of two stages."""
    panel, tensors, levels = made(PyTorch)
    head, boxes = panel.model.roi_head, tensors["boxes"]
    targets = padded([(np.array(rows, float), np.array(labels)) for rows, labels in SCENE])
    targets["masks"] = ellipses(targets["boxes"], targets["valid"], 96, 128)
    targets["point_candidates"], targets["point_choices"] = (golden_points(2, n, (2, 1)) for n in (588, 49))
    targets = panel.tensors(targets)
    outputs = panel.model(tensors["images"], proposals=boxes)
    outputs["matched"] = torch.tensor([[0, 1], [0, -1]])  # in the order of the objects
    outputs |= head.learn(levels, outputs, targets)
    losses = PointRendCriterion()(outputs, targets)
    for name, value in EXPECTED["loss"]["terms"].items():
        assert losses[LOSSES[name]].item() == pytest.approx(value, rel=1e-4), name
    wanted, parameters = EXPECTED["loss"]["gradients"], dict(panel.model.named_parameters())
    total = losses["loss_mask"] + losses["loss_point"]
    norms = [x.norm().item() for x in torch.autograd.grad(total, [parameters[ours(name)] for name in wanted])]
    np.testing.assert_allclose(norms, [norm for norm, _ in wanted.values()], rtol=1e-3)
