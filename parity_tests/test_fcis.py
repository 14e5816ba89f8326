"""FCIS's pooling, scores and losses of chosen proposals against the reference's operators; its anchors and masks."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.harness import fingerprints

PACKAGES = {"tf_impl": tf.constant, "torch_impl": torch.tensor}
packages = pytest.mark.parametrize("package", PACKAGES)


def close(found: dict, expected):
    for name, value in found.items():
        wanted, value = expected["outputs"][name], np.asarray(value)
        assert list(value.shape) == wanted["shape"], name
        places = np.unique(np.round(np.linspace(0, value.size - 1, len(wanted["values"]))).astype(int))
        np.testing.assert_allclose(value.ravel()[places], wanted["values"], rtol=1e-5, atol=1e-6, err_msg=name)


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


@packages
@pytest.mark.parametrize("group, cells", [(3, 9), (7, 21)])
def test_pooling_is_that_of_the_reference(package, group, cells):
    expected = fingerprints.load(f"fcis_psroi_g{group}_p{cells}")
    given, tensor = fingerprints.inputs_of(expected), PACKAGES[package]
    pool = importlib.import_module(f"{package}.layers.ps_roi_pool").ps_roi_pool
    image, rois = given["rois"][:, 0].astype(int), given["rois"][:, 1:] + [0, 0, 1, 1]

    def pooled(name):  # every box on both images; those on its own are kept
        maps = given[name] if package == "torch_impl" else given[name].transpose(0, 2, 3, 1)
        found = np.asarray(pool(tensor(maps), tensor(np.stack([rois, rois])), group, cells, 16))
        found = found if package == "torch_impl" else found.transpose(0, 1, 4, 2, 3)
        return found[image, np.arange(len(rois))]

    scores = pooled("cls_seg")
    pairs = scores.reshape(len(rois), -1, 2, cells, cells)
    logits = pairs.max(2).mean((2, 3))
    best = logits[:, 1:].argmax(1) + 1
    inside = softmax(pairs[np.arange(len(rois)), best], 1)[:, 1]
    deltas = pooled("bbox").mean((2, 3))
    found = {"pooled": scores, "cls_score": logits, "cls_prob": softmax(logits, 1), "best_foreground": best}
    close(found | {"mask": inside, "bbox_pred": deltas}, expected)


@packages
def test_losses_of_the_hardest_proposals_are_those_of_the_reference(package):
    expected, tensor = fingerprints.load("fcis_ohem"), PACKAGES[package]
    given = fingerprints.inputs_of(expected)
    labels, positive = given["labels"].astype(np.int64), given["labels"] > 0
    arrays = (
        given["cls_score"],
        given["seg_pred"],
        given["bbox_pred"][:, 4:],
        labels,
        np.maximum(given["mask_targets"][:, 0], 0),
        given["bbox_targets"][:, 4:],
        positive,
        np.ones_like(positive),
    )
    hard_rois = importlib.import_module(f"{package}.segmentation.fcis").hard_rois
    losses = {key: np.asarray(x)[0] for key, x in hard_rois(*(tensor(array[None]) for array in arrays), 5).items()}
    found = {"total": losses.pop("total"), **{f"final_{key}": value for key, value in losses.items()}}
    close(found, expected)


@packages
def test_anchors_are_whole_pixels(package):
    found = importlib.import_module(f"{package}.segmentation.fcis").fcis_anchors((2, 3))
    assert found.shape == (72, 4)
    np.testing.assert_array_equal(found[:2], [[-38, -16, 54, 32], [-84, -40, 100, 56]])  # those of a cell of Fast R-CNN
    np.testing.assert_array_equal(found[12] - found[0], [16, 0, 16, 0])


@packages
def test_a_mask_survives_cutting_and_drawing(package):
    fcis, tensor = importlib.import_module(f"{package}.segmentation.fcis"), PACKAGES[package]
    masks = np.zeros((1, 2, 40, 50))
    masks[0, 1, 10:30, 15:40] = 1
    box = np.array([[[5.0, 5.0, 47.0, 37.0]]])
    cut = fcis.roi_masks(tensor(box), tensor(np.array([[1]])), tensor(masks), 21)
    drawn = np.asarray(fcis.drawn_masks(cut, tensor(box), (40, 50)))[0, 0]
    y, x = np.nonzero(drawn)
    assert np.abs(np.array([y.min() - 10, y.max() - 29, x.min() - 15, x.max() - 39])).max() <= 1
    assert (masks[0, 1] != drawn).mean() < 0.04
