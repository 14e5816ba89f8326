"""Overlaps, coders and clipping of boxes in both panels, against rules written as plain loops."""

import math

import numpy as np
import pytest

from parity_tests.boxes import both, plain_iou, random_boxes

pytestmark = pytest.mark.usefixtures("double_precision")


@both
def test_pairwise_iou(panel):
    rng = np.random.default_rng(0)
    boxes, others = random_boxes(rng, 2, 3), random_boxes(rng, 7)
    found = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others)))
    expected = [[[plain_iou(a, b) for b in others] for a in image] for image in boxes]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    again = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others), 1e-6))
    np.testing.assert_allclose(again, expected, rtol=1e-13)
    covered = np.asarray(panel.iou.pairwise_iou(panel.tensor(boxes), panel.tensor(others), mode="iof"))
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    other_area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    shared = found / (1 + found) * (area[..., None] + other_area)
    np.testing.assert_allclose(covered, shared / area[..., None], rtol=1e-12)
    empty = panel.tensor(np.array([[3.0, 3, 3, 3]]))
    assert np.asarray(panel.iou.pairwise_iou(empty, empty)) == 0
    assert np.asarray(panel.iou.pairwise_iou(empty, empty, 1e-6)) == 0
    with pytest.raises(ValueError, match="mode='diou' must be 'iou' or 'iof'"):
        panel.iou.pairwise_iou(empty, empty, mode="diou")


@both
def test_generalized_iou(panel):
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 40), random_boxes(rng, 40)
    for guard in ("add", "max"):
        found = np.asarray(panel.iou.generalized_iou(panel.tensor(a), panel.tensor(b), guard=guard))
        expected = []
        for x, y in zip(a, b):
            union = ((x[2] - x[0]) * (x[3] - x[1]) + (y[2] - y[0]) * (y[3] - y[1])) / (1 + plain_iou(x, y))
            around = (max(x[2], y[2]) - min(x[0], y[0])) * (max(x[3], y[3]) - min(x[1], y[1]))
            expected.append(plain_iou(x, y) - (around - union) / around)
        np.testing.assert_allclose(found, expected, atol=1e-7)
        point = panel.tensor(np.array([[3.0, 3, 3, 3]]))
        assert np.isfinite(np.asarray(panel.iou.generalized_iou(point, point, guard=guard))).all()
    with pytest.raises(ValueError, match="guard='none' must be 'add' or 'max'"):
        panel.iou.generalized_iou(panel.tensor(a), panel.tensor(b), guard="none")


@both
def test_coder_and_its_clamps(panel):
    rng = np.random.default_rng(2)
    boxes, anchors = random_boxes(rng, 9), random_boxes(rng, 9)
    stds = (0.1, 0.1, 0.2, 0.3)
    coder = panel.coders.DeltaCoder(stds)
    deltas = coder.encode(panel.tensor(boxes), panel.tensor(anchors))
    size, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    np.testing.assert_allclose(deltas, np.hstack([shift, np.log(wanted / size)]) / stds, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(coder.decode(deltas, panel.tensor(anchors)), boxes, rtol=1e-12)
    square, far = panel.tensor(np.array([[0.0, 0, 16, 16]])), panel.tensor(np.array([[0.0, 0, 9, -9]]))
    for clamp, least in (("upper", math.exp(-9)), ("both", 16 / 1000)):
        decoded = np.asarray(panel.coders.DeltaCoder(clamp=clamp).decode(far, square))[0]
        half_width, half_height = 8 * 1000 / 16, 8 * least
        np.testing.assert_allclose(
            decoded, [8 - half_width, 8 - half_height, 8 + half_width, 8 + half_height], rtol=1e-12
        )
    with pytest.raises(ValueError, match="clamp='lower' must be 'upper' or 'both'"):
        panel.coders.DeltaCoder(clamp="lower")


@both
def test_clipping_by_one_size_or_one_per_image(panel):
    boxes = np.array([[[-5.0, -7, 200, 300]], [[10, 20, 30, 40]]])
    found = panel.coders.clip_boxes(panel.tensor(boxes), panel.tensor(np.array([50, 90])))
    np.testing.assert_array_equal(found, [[[0, 0, 90, 50]], [[10, 20, 30, 40]]])
    found = panel.coders.clip_boxes(panel.tensor(boxes), panel.tensor(np.array([[50, 90], [30, 25]])))
    np.testing.assert_array_equal(found, [[[0, 0, 90, 50]], [[10, 20, 25, 30]]])
