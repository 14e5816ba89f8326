"""PointRend: points and masks of given proposals, and losses at chosen points, against mmdet's; Halton's sequence."""

import importlib

import numpy as np
import pytest

from parity_tests.cases.detection._masks import golden_points, losses_masks
from parity_tests.cases.detection._two_stage import LOSSES, ONE_BOX
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

FILE = "point-rend_r50-caffe_fpn_ms-1x_coco"
published = pytest.mark.parametrize(
    "panel", [pytest.param(TensorFlow, marks=pytest.mark.slow), PyTorch], ids=["tensorflow", "pytorch"]
)


@pytest.mark.parametrize("package", ["tf_impl", "torch_impl"])
def test_halton(package):
    found = importlib.import_module(f"{package}.rois.points").halton(5)
    np.testing.assert_allclose(found, [[1 / 2, 1 / 3], [1 / 4, 2 / 3], [3 / 4, 1 / 9], [1 / 8, 4 / 9], [5 / 8, 7 / 9]])


def numbers(x):
    return np.asarray(x.detach() if hasattr(x, "detach") else x)


@published
def test_points_and_refined_masks_of_given_proposals(panel):
    expected = fingerprints.load(FILE)
    images = {"images": fingerprints.inputs_of(expected)["input"]}
    made = panel(catalog.get("point_rend_r50_caffe_fpn"), {}, None, {}, "float32", example=images)
    made.load(seeded(made.shapes()))
    given = {
        key: np.asarray(expected["inputs"][name]["data"], np.float32).reshape(1, 8, *shape)
        for key, name, shape in (("boxes", "proposals", (4,)), ("points", "rel_roi_points", (32, 2)))
    }
    labels = made.tensors({"labels": np.arange(8)[None]})["labels"]
    tensors, model = made.tensors(images | given), made.model
    boxes, points = tensors["boxes"], tensors["points"]
    maps, head = model.neck(model.backbone(tensors["images"])), model.roi_head
    coarse = head.segment(maps, boxes)
    every = [head.point_logits(maps, boxes, coarse, labels * 0 + k, points) for k in range(80)]
    found = {
        "pointrend.point_logits": np.stack([numbers(x)[0] for x in every], 1),
        "pointrend.refined_of_labels_0_to_7": numbers(head.refine(maps, boxes, coarse, labels))[0],
    }
    for name, values in found.items():
        for figure in compare_with_fingerprint(name, values, expected["outputs"][name]):
            assert figure.relative < 1e-4, figure


@published
def test_points_of_a_segmentation(panel):
    expected = fingerprints.load("pointrend_r50_4xb2-80k_cityscapes-512x1024")
    images = {"images": fingerprints.inputs_of(expected)["input"]}
    made = panel(catalog.get("pointrend_r50"), {}, None, {}, "float32", example=images)
    made.load(seeded(made.shapes()))
    points = np.asarray(expected["inputs"]["points"]["data"], np.float32).reshape(1, 64, 2)
    tensors, model = made.tensors(images | {"points": points}), made.model
    levels = list(model.neck(model.backbone(tensors["images"])).values())
    found = numbers(model.render(levels[0], model.decode_head[0](levels), tensors["points"]))
    found = found if panel is PyTorch else np.moveaxis(found, -1, 1)
    for figure in compare_with_fingerprint("point_logits", found, expected["outputs"]["point_logits"]):
        assert figure.relative < 1e-4, figure


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_mmdet():
    """In PyTorch only, as those of the other detectors of two stages."""
    expected = fingerprints.load(FILE)
    panel = PyTorch(catalog.get("point_rend_r50_caffe_fpn"), {}, None, {}, "float32")
    panel.load(seeded(panel.shapes()))
    images = {"images": next(iter(fingerprints.loss_inputs_of(expected).values()))}
    targets = losses_masks(expected)
    tensors = panel.tensors(images | targets)
    first = panel.model(tensors["images"], targets={key: tensors[key] for key in targets})
    counts = (first["matched"] >= 0).sum(1).tolist()
    targets["point_candidates"], targets["point_choices"] = (golden_points(128, points, counts) for points in (588, 49))
    found, gradients = panel.losses(images, targets), panel.gradients(images, targets)
    for ours, theirs in {key: key for key in [*ONE_BOX, "loss_mask", "loss_point"]}.items():
        np.testing.assert_allclose(found[ours], expected["loss"]["terms"][theirs], rtol=1e-4)
    for ours in set(LOSSES.values()):
        whole = sum(expected["loss"]["terms"][key] for key, value in LOSSES.items() if value == ours)
        np.testing.assert_allclose(found[ours], whole, rtol=1e-4)
    wanted = expected["loss"]["gradients"]
    norms = [np.linalg.norm(gradients[key].astype(np.float64)) for key in wanted]
    largest = max(norm for norm, _ in wanted.values())
    np.testing.assert_allclose(norms, [norm for norm, _ in wanted.values()], rtol=1e-3, atol=1e-6 * largest)
