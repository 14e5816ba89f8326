"""FCIS's vote on masks against a transcription of the release in plain loops, whose boxes include their last pixel."""

import importlib

import numpy as np
import pytest
import tensorflow as tf
import torch

PACKAGES = {"tf_impl": tf.constant, "torch_impl": torch.tensor}
CLASSES, CELLS, HEIGHT, WIDTH = 3, 5, 40, 50
NMS, MERGE, BINARY, MOST, LEAST = 0.3, 0.5, 0.4, 6, 1e-3


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    first, second = ((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other))
    return width * height / (first + second - width * height)


def render(mask, box):
    """A mask of CELLS x CELLS in an image, cell centres at half pixels."""
    image = np.zeros((HEIGHT, WIDTH))
    for y in range(box[1], box[3] + 1):
        for x in range(box[0], box[2] + 1):
            places = []
            for place, first, last in ((y, box[1], box[3]), (x, box[0], box[2])):
                place = max((place - first + 0.5) * CELLS / (last - first + 1) - 0.5, 0)
                low = min(int(place), CELLS - 1)
                places.append((low, min(low + 1, CELLS - 1), place - low))
            (top, bottom, v), (left, right, u) = places
            upper = mask[top, left] * (1 - u) + mask[top, right] * u
            lower = mask[bottom, left] * (1 - u) + mask[bottom, right] * u
            image[y, x] = upper * (1 - v) + lower * v
    return image


def detections(boxes, scores, masks):
    """Class, score, box and mask of every detection, best first."""
    kept = []
    for k in range(1, CLASSES + 1):
        alive = []
        for i in np.argsort(-scores[:, k]):
            if all(overlap(boxes[i], boxes[j]) <= NMS for j in alive):
                alive.append(i)
        kept += [(scores[i, k], k, i) for i in alive[:MOST]]
    kept = sorted(kept, reverse=True)[:MOST]
    found = []
    for score, k, i in kept:
        if score < LEAST:
            continue
        voters = [j for j in range(len(boxes)) if overlap(boxes[j], boxes[i]) >= MERGE]
        total = sum(scores[j, k] for j in voters)
        mean = np.zeros((HEIGHT, WIDTH))
        for j in voters:
            mean += (render(masks[j], np.round(boxes[j]).astype(int)) >= BINARY) * scores[j, k] / total
        y, x = np.nonzero(mean >= BINARY)
        if len(x) and x.max() > x.min() and y.max() > y.min():
            found.append((k - 1, score, (x.min(), y.min(), x.max(), y.max()), mean >= BINARY))
    return found


def scene(rng):
    """Outputs of the model for proposals around three places, two rows of which are none."""
    centres = np.array([(14.2, 12.3), (33.1, 20.7), (22.4, 29.1)])[np.arange(18) % 3] + rng.normal(0, 1.2, (18, 2))
    half = rng.uniform(5, 9, (18, 2))
    first, last = np.maximum(centres - half, 0), np.minimum(centres + half, (WIDTH - 1, HEIGHT - 1))
    boxes = np.concatenate([first, last + 1], -1)
    boxes[[7, 11]] = 0
    logits = rng.normal(0, 2, (18, CLASSES + 1))
    pairs = rng.normal(0, 1.5, (18, 2, CELLS, CELLS))
    pairs[4:6, 1] -= 8  # two masks of nothing
    return boxes, logits, pairs


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("seed", range(3))
def test_masks_are_voted_on_as_in_the_release(package, seed):
    boxes, logits, pairs = scene(np.random.default_rng(seed))
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    real = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    inside = 1 / (1 + np.exp(pairs[:, 0] - pairs[:, 1]))
    wanted = detections(boxes[real] - [0, 0, 1, 1], scores[real], inside[real])
    assert len(wanted) >= 4

    tensor = PACKAGES[package]
    outputs = {"proposals": boxes, "class_logits": logits, "mask_logits": pairs}
    outputs = {name: tensor(np.stack([x[::-1], x])) for name, x in outputs.items()}
    postprocess = importlib.import_module(f"{package}.segmentation.fcis").FCISPostProcess
    found = postprocess(LEAST, 50, NMS, MOST)(outputs, input_size=(HEIGHT, WIDTH))
    found = {name: np.asarray(x) for name, x in found.items()}
    for image in range(2):
        assert found["valid"][image].sum() == len(wanted)
        assert found["valid"][image, : len(wanted)].all()
        for i, (label, score, (x1, y1, x2, y2), mask) in enumerate(wanted):
            assert found["labels"][image, i] == label
            assert found["scores"][image, i] == pytest.approx(score, rel=1e-5)
            np.testing.assert_array_equal(found["boxes"][image, i], [x1, y1, x2 + 1, y2 + 1])
            np.testing.assert_array_equal(found["masks"][image, i], mask)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_vote_on_nothing_leaves_no_detection(package):
    boxes, logits, pairs = scene(np.random.default_rng(0))
    pairs[:, 1] -= 50
    tensor = PACKAGES[package]
    outputs = {
        "proposals": tensor(boxes[None]),
        "class_logits": tensor(logits[None]),
        "mask_logits": tensor(pairs[None]),
    }
    postprocess = importlib.import_module(f"{package}.segmentation.fcis").FCISPostProcess
    found = postprocess(LEAST, 50, NMS, MOST)(outputs, input_size=(HEIGHT, WIDTH))
    assert not any(np.asarray(found[name]).any() for name in found)
