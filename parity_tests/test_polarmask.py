"""PolarMask's targets against the reference's, and its polygons."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch
from skimage.draw import polygon2mask

import tf_impl.segmentation.polarmask as tf_polarmask
import torch_impl.segmentation.polarmask as torch_polarmask
from parity_tests.cases.segmentation.polarmask import scene_targets
from weights.processing.segmentation.polarmask import outline, polar_targets

EXPECTED = json.loads((Path(__file__).parent / "fingerprints/segmentation/polarmask_r50.json").read_text())


@pytest.mark.parametrize("image", [0, 1])
def test_targets_are_those_of_the_reference(image):
    targets = {key: x[image] for key, x in scene_targets(EXPECTED).items()}
    seen = targets["labels"] >= 0
    for key, found in (("labels", targets["labels"] + 1), ("mask", targets["rays"] * seen[:, None])):
        expected = EXPECTED["outputs"][f"target_{key}.{image}"]
        place = np.unique(np.round(np.linspace(0, found.size - 1, 64)).astype(int))
        np.testing.assert_allclose(found.reshape(-1)[place], expected["values"], rtol=1e-6)
        assert found.mean() == pytest.approx(expected["mean"], rel=1e-6)


def test_outline_is_of_the_largest_part_with_its_holes_filled():
    mask = np.zeros((12, 12), int)
    mask[1:10, 1:8] = 1
    mask[4:6, 3:5] = 0
    mask[10:12, 9:12] = 1
    centre, contour = outline(mask)
    np.testing.assert_array_equal(centre, [4, 5])
    assert {tuple(pixel) for pixel in contour} == {
        (x, y) for x in range(1, 8) for y in range(1, 10) if x in (1, 7) or y in (1, 9)
    }


def test_outline_of_a_line_is_the_line():
    mask = np.zeros((5, 9), int)
    mask[2, 1:8] = 1
    centre, contour = outline(mask)
    np.testing.assert_array_equal(centre, [4, 2])
    np.testing.assert_array_equal(contour, [[x, 2] for x in range(1, 8)])


def test_empty_masks_are_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        outline(np.zeros((4, 4)))


def test_an_image_without_objects_has_no_labels():
    targets = polar_targets(np.zeros((0, 4)), [], np.zeros((0, 64, 64)), [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)])
    assert (targets["labels"] == -1).all() and (targets["distances"] > 0).all() and (targets["rays"] > 0).all()


@pytest.mark.parametrize("panel", ["tensorflow", "pytorch"])
def test_polygons_are_filled(panel):
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    radius = rng.uniform(3, 14, (2, 3, 36))
    polygons = np.stack([20 + radius * np.sin(angle), 15 + radius * np.cos(angle)], -1)
    polygons[1, 2] = 0  # without area
    if panel == "tensorflow":
        masks = tf_polarmask.fill_polygons(tf.constant(polygons), (32, 48)).numpy()
    else:
        masks = torch_polarmask.fill_polygons(torch.from_numpy(polygons), (32, 48)).numpy()
    expected = [[polygon2mask((32, 48), corners[:, ::-1]) for corners in image] for image in polygons]
    expected[1][2] = np.zeros((32, 48), bool)
    np.testing.assert_array_equal(masks, expected)


@pytest.mark.parametrize("panel", ["tensorflow", "pytorch"])
def test_boxes_around_polygons_are_suppressed_instead_of_predicted_ones(panel):
    module, tensor = (tf_polarmask, tf.constant) if panel == "tensorflow" else (torch_polarmask, torch.tensor)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    rng, outputs = np.random.default_rng(0), {}
    for level, size in zip(("p3", "p4", "p5", "p6", "p7"), sizes):
        maps = {
            "cls": rng.normal(-1, 2, (1, 2, *size)),
            "ctr": rng.normal(0, 1, (1, 1, *size)),
            "reg": np.full((1, 4, *size), 1.0),  # nothing would be suppressed
            "rays": rng.uniform(15, 25, (1, 36, *size)),
        }
        for key, x in maps.items():
            x = x.astype(np.float32)
            outputs[f"{key}_{level}"] = tensor(x if panel == "pytorch" else np.moveaxis(x, 1, -1))
    found = module.PolarMaskPostProcess(detections=60, mask_nms=True)(outputs, input_size=(64, 96))
    found = {key: np.asarray(x)[0] for key, x in found.items()}
    polygons, boxes = found["polygons"][found["valid"]], found["boxes"][found["valid"]]
    assert 2 <= len(boxes) < 60
    np.testing.assert_allclose(boxes, np.concatenate([polygons.min(1), polygons.max(1)], -1))
    labels = found["labels"][found["valid"]]
    for k in range(2):
        mine = boxes[labels == k] + [0, 0, 1, 1]
        first, last = np.maximum(mine[:, None, :2], mine[:, :2]), np.minimum(mine[:, None, 2:], mine[:, 2:])
        shared, area = np.prod(np.maximum(last - first, 0), -1), np.prod(mine[:, 2:] - mine[:, :2], -1)
        overlap = shared / (area[:, None] + area - shared)
        assert (overlap[~np.eye(len(mine), dtype=bool)] <= 0.5).all()
