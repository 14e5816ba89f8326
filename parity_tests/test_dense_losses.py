"""Losses over anchors: golden numbers, padding, images without objects, corners, and normalisation."""

import math

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.boxes import TF, TORCH, anchors_of, both, losses_of, outputs_of, plain_assignment, plain_iou, scene
from parity_tests.cases.detection import padded

pytestmark = pytest.mark.usefixtures("double_precision")


def wave(shape, a, b, phase):
    """The golden values' inputs: b + a sin(0.7371 i + phase) at flat index i."""
    return (b + a * np.sin(0.7371 * np.arange(math.prod(shape)) + phase)).reshape(shape).astype(np.float32)


def golden_scene():
    boxes = [
        [(12.3, 20.1, 100.7, 90.9), (30, 40, 62, 75.5), (150.2, 100.3, 250.1, 240.8), (5.5, 200, 25, 225)],
        [(60, 60, 200, 210), (64.4, 70.2, 110.9, 140.6)],
    ]
    labels = [[1, 0, 4, 2], [3, 3]]
    targets = padded([(np.array(b), np.array(k)) for b, k in zip(boxes, labels)])
    return {**targets, "boxes": targets["boxes"].astype(np.float32)}


@both
def test_golden_losses_of_torchvision(panel):
    outputs = outputs_of(panel, wave((2, 12276, 6), 2, -2, 0.1), wave((2, 12276, 4), 0.3, 0, 0.2), (256, 256), True)
    scene = golden_scene()
    scene["labels"] = scene["labels"] + scene["valid"]
    found = losses_of(panel, panel.retinanet.RetinaNetCriterion(), outputs, scene)
    assert found["classification"] == pytest.approx(29.600698, rel=1e-6)
    assert found["bbox_regression"] == pytest.approx(0.978820, rel=1e-6)
    assert found["total"] == pytest.approx(29.600698 + 0.978820, rel=1e-6)
    found = losses_of(panel, panel.retinanet.retinanet_v2_criterion(), outputs, scene)
    assert found["bbox_regression"] == pytest.approx(0.672601, rel=2e-6)


@both
def test_golden_losses_of_mmdet(panel):
    logits, deltas = [], []
    for k, size in enumerate((32, 16, 8, 4, 2)):
        for rows, channels, numbers in ((logits, 5, (2, -2, 0.1)), (deltas, 4, (0.3, 0, 0.2))):
            x = wave((2, 9 * channels, size, size), *numbers[:2], numbers[2] + k)
            x = x.reshape(2, 9, channels, size, size).transpose(0, 3, 4, 1, 2)
            rows.append(x.reshape(2, -1, channels))
    outputs = outputs_of(panel, np.concatenate(logits, 1), np.concatenate(deltas, 1), (256, 256), False)
    found = losses_of(panel, panel.retinanet.retinanet_mmdet_criterion(), outputs, golden_scene())
    assert list(found) == ["loss_cls", "loss_bbox", "total"]
    assert found["loss_cls"] == pytest.approx(23.508104, rel=1e-6)
    assert found["loss_bbox"] == pytest.approx(0.926939, rel=1e-6)


CRITERIA = ("RetinaNetCriterion", "retinanet_v2_criterion", "retinanet_mmdet_criterion")


@both
@pytest.mark.parametrize("criterion", CRITERIA)
def test_padding_influences_nothing(panel, criterion):
    image, logits, deltas, targets = scene()
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    criterion = getattr(panel.retinanet, criterion)()
    expected = losses_of(panel, criterion, outputs, targets)
    # slot 3 holds nothing; it is put before, between and after the others, whose order could decide ties
    moved = {key: value[:, [3, 0, 3, 1, 2, 3]] for key, value in targets.items()}
    empty = ~moved["valid"]
    moved["boxes"][empty], moved["labels"][empty] = np.nan, 10**6
    assert losses_of(panel, criterion, outputs, moved) == pytest.approx(expected, rel=1e-12)


@both
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("absence", ["no object", "no slot holds one", "without area"])
def test_images_without_objects_are_background(panel, criterion, absence):
    image, logits, deltas, targets = scene()
    if absence == "no object":
        targets = {key: value[:, :1] for key, value in targets.items()}
    if absence == "without area":
        targets["boxes"][..., 2] = targets["boxes"][..., 0]
    else:
        targets["valid"] = np.zeros_like(targets["valid"])
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    found = losses_of(panel, getattr(panel.retinanet, criterion)(), outputs, targets)
    p = 1 / (1 + np.exp(-logits))
    background = (0.75 * p**2 * np.logaddexp(0, logits)).sum() / 2  # two images, each divided by 1
    assert found["total"] == pytest.approx(background, rel=1e-6)
    names = [name for name in found if "bbox" in name]
    assert found[names[0]] == 0


@both
@pytest.mark.parametrize("criterion", CRITERIA)
def test_gradients_are_finite_in_the_corners(panel, criterion):
    """Huge logits and deltas, objects without area, NaN in the padding."""
    image, logits, deltas, targets = scene()
    logits, deltas = logits * 300, deltas * 100
    targets["boxes"][0, 0, 2:] = targets["boxes"][0, 0, :2]
    targets["boxes"][~targets["valid"]] = np.nan
    outputs = outputs_of(panel, logits.astype(np.float32), deltas.astype(np.float32), image, True)
    given = [outputs["cls_logits"], outputs["bbox_regression"]]
    targets = panel.tensors({**targets, "boxes": targets["boxes"].astype(np.float32)})
    criterion = getattr(panel.retinanet, criterion)()
    if panel is TF:
        with tf.GradientTape() as tape:
            tape.watch(given)
            total = criterion(outputs, targets)["total"]
        gradients = tape.gradient(total, given)
    else:
        for x in given:
            x.requires_grad_()
        total = criterion(outputs, targets)["total"]
        gradients = torch.autograd.grad(total, given)
        total = total.detach()
    assert np.isfinite(np.asarray(total))
    assert all(np.isfinite(np.asarray(g)).all() and np.asarray(g).any() for g in gradients)


@both
def test_normalisation_by_image_and_by_batch(panel):
    """An image without objects counts as one match in both."""
    image, logits, deltas, targets = scene(batch=3)
    targets["valid"][2] = False
    both_ways = []
    for normalise in ("image", "batch"):
        criterion = panel.retinanet.RetinaNetCriterion(normalise=normalise)
        outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
        both_ways.append(losses_of(panel, criterion, outputs, targets)["classification"])
    parts, counts = [], []
    for i in range(3):
        outputs = outputs_of(panel, logits[i : i + 1], deltas[i : i + 1], image, True, np.float64)
        one = {key: value[i : i + 1] for key, value in targets.items()}
        parts.append(losses_of(panel, panel.retinanet.RetinaNetCriterion(), outputs, one)["classification"])
        anchors = np.concatenate(list(anchors_of(panel, image, True).values()))
        iou = np.array([[plain_iou(box, anchor) for anchor in anchors] for box in one["boxes"][0]])
        counts.append(max((plain_assignment(iou, one["valid"][0], 0.5, 0.4, "own", 0.0, True) >= 0).sum(), 1))
    assert both_ways[0] == pytest.approx(np.mean(parts), rel=1e-12)
    assert both_ways[1] == pytest.approx(np.dot(parts, counts) / np.sum(counts), rel=1e-6)


@both
def test_the_last_of_equal_objects_counts_for_mmdet_alone(panel):
    image, logits, deltas, targets = scene()
    targets["boxes"][:, 1] = targets["boxes"][:, 0]
    targets["labels"][:, :2] = 0, 1
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    for name in CRITERIA:
        found = []
        for second in (True, False):
            targets["valid"][:] = [True, second, False, False]
            found.append(losses_of(panel, getattr(panel.retinanet, name)(), outputs, targets)["total"])
        assert (found[0] == pytest.approx(found[1], rel=1e-12)) == ("mmdet" not in name)


@both
def test_one_class_and_one_image(panel):
    image, logits, deltas, targets = scene(classes=1, batch=1)
    outputs = outputs_of(panel, logits, deltas, image, True, np.float64)
    by_image = losses_of(panel, panel.retinanet.RetinaNetCriterion(low_quality="forced"), outputs, targets)
    by_batch = losses_of(
        panel, panel.retinanet.RetinaNetCriterion(low_quality="forced", normalise="batch"), outputs, targets
    )
    # one image: the divisors are the same, except for mmdet's epsilon
    assert by_image == pytest.approx(by_batch, rel=1e-6)
    found = panel.arrays(panel.retinanet.RetinaNetPostProcess(detections=7)(outputs))
    assert not found["labels"].any() and found["valid"].shape == (1, 7)


def test_unknown_options_are_refused():
    for panel in (TF, TORCH):
        with pytest.raises(ValueError, match="box_loss='iou' must be 'l1', 'smooth_l1' or 'giou'"):
            panel.retinanet.RetinaNetCriterion(box_loss="iou")
        with pytest.raises(ValueError, match="normalise='level' must be 'image' or 'batch'"):
            panel.retinanet.RetinaNetCriterion(normalise="level")
