"""SOLO's cells, peaks and matrix suppression against literal numbers and mmdet's."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.layers.matrix_nms as tf_nms
import tf_impl.losses.dice as tf_dice
import tf_impl.segmentation.solo as tf_solo
import torch_impl.layers.matrix_nms as torch_nms
import torch_impl.losses.dice as torch_dice
import torch_impl.segmentation.solo as torch_solo
from parity_tests.harness import fingerprints

PANELS = {
    "tensorflow": (tf_solo, tf_nms, tf_dice, tf.constant),
    "pytorch": (torch_solo, torch_nms, torch_dice, torch.tensor),
}
each = pytest.mark.parametrize("panel", PANELS)
RECTANGLES = [(60, 40, 180, 140), (100, 100, 150, 140), (10, 10, 300, 250)]
CELLS = {  # level -> object -> first and last row, first and last column, pixels of the mask
    0: {1: (18, 19, 14, 16, 130)},
    1: {0: (11, 13, 12, 14, 750)},
    2: {0: (7, 9, 8, 9, 206), 2: (11, 13, 10, 12, 1110)},
    3: {2: (7, 9, 6, 8, 270)},
    4: {},
}


def rectangles():
    masks = np.zeros((1, 3, 256, 320))
    for i, (x1, y1, x2, y2) in enumerate(RECTANGLES):
        masks[0, i, y1:y2, x1:x2] = 1
    return {"masks": masks, "boxes": np.array([RECTANGLES], np.float64), "valid": np.ones((1, 3), bool)}


@each
@pytest.mark.parametrize("level", CELLS)
def test_cells_of_rectangles(panel, level):
    solo, _, _, tensor = PANELS[panel]
    targets = {name: tensor(value) for name, value in rectangles().items()}
    found = solo.claimed_cells(targets, solo.GRIDS[level], solo.RANGES[level], targets["boxes"].dtype)
    first, last, present = (np.asarray(x)[0] for x in found)
    small = np.asarray(solo.strided_masks(targets["masks"], solo.STRIDES[level] // 2)).sum((2, 3))[0]
    assert {int(m) for m in np.flatnonzero(present)} == set(CELLS[level])
    for m, wanted in CELLS[level].items():
        assert (first[m][0], last[m][0], first[m][1], last[m][1], small[m]) == wanted


@each
def test_peaks(panel):
    solo, _, _, tensor = PANELS[panel]
    scores = np.array([[0.1, 0.5, 0.5], [0.6, 0.2, 0.7], [0.3, 0.9, 0.8]])
    given = scores[None, :, :, None] if panel == "tensorflow" else scores[None, None]
    wanted = [[0.1, 0.5, 0.5], [0.6, 0, 0.7], [0, 0.9, 0]]
    np.testing.assert_array_equal(np.asarray(solo.upper_left_peaks(tensor(given))).reshape(3, 3), wanted)


@each
@pytest.mark.parametrize(
    "kernel, wanted", [("gaussian", (0.9, 0.328890, 0.560516, 0.6)), ("linear", (0.9, 4 / 15, 7 / 15, 0.6))]
)
def test_matrix_suppression(panel, kernel, wanted):
    _, nms, _, tensor = PANELS[panel]
    masks = np.zeros((1, 4, 4, 4))
    for i, rows in enumerate(((0, 2), (0, 3), (1, 3), (3, 4))):
        masks[0, i, slice(*rows)] = 1
    found = nms.matrix_nms(
        tensor(masks.reshape(1, 4, 16)), tensor([[0, 0, 0, 1]]), tensor(np.array([[0.9, 0.8, 0.7, 0.6]])), kernel
    )
    np.testing.assert_allclose(np.asarray(found)[0], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="kernel='hard' must be"):
        nms.matrix_nms(tensor(masks.reshape(1, 4, 16)), tensor([[0, 0, 0, 1]]), tensor(np.ones((1, 4))), "hard")


@each
def test_dice(panel):
    _, _, dice, tensor = PANELS[panel]
    p, t = tensor(np.array([0.9, 0.8, 0.1, 0.2])), tensor(np.array([1.0, 1, 0, 0]))
    for eps, value in ((1e-3, 0.029126), (5e-6, 0.028574)):
        assert float(dice.squared_dice(p, t, eps)) == pytest.approx(value, abs=1e-6)


@each
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_suppression_of_circles(panel, kernel):
    """The best seven of nine circles, and the best six of these after suppression, as mmdet finds them."""
    _, nms, _, tensor = PANELS[panel]
    expected = fingerprints.load("mmdet_mask_matrix_nms")
    given = {name: np.asarray(x["data"]) for name, x in expected["inputs"].items()}
    y, x = np.mgrid[:12, :16]
    cx, cy, radius = (value[:, None, None] for value in given["circles"].reshape(9, 3).T)
    masks = ((x - cx) ** 2 + (y - cy) ** 2 <= radius**2).reshape(9, -1).astype(float)
    order = np.argsort(-given["scores"], kind="stable")[:7]
    found = nms.matrix_nms(*(tensor(value[order][None]) for value in (masks, given["labels"], given["scores"])), kernel)
    found = np.asarray(found)[0]
    best = np.argsort(-found, kind="stable")[:6]
    np.testing.assert_allclose(found[best], expected["outputs"][f"{kernel}.scores"]["values"], rtol=1e-6)
    np.testing.assert_array_equal(order[best], expected["outputs"][f"{kernel}.index"]["values"])


@each
def test_decoding_is_that_of_mmdet(panel):
    solo, _, _, tensor = PANELS[panel]
    expected = fingerprints.load("mmdet_solo_decode")
    given = fingerprints.inputs_of(expected)
    last = panel == "tensorflow"

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def placed(x):
        return tensor(np.ascontiguousarray(np.moveaxis(x, 1, -1) if last else x))

    peaks = solo.upper_left_peaks(placed(sigmoid(given["cls_logits_level0"])))
    rest = np.split(0.9 * sigmoid(given["cls_logits_rest"]), [25, 41, 50])  # grids of 5, 4, 3 and 2 cells
    classes = [placed(x.T.reshape(1, 4, grid, grid)) for x, grid in zip(rest, (5, 4, 3, 2))]
    rng = np.random.default_rng(0)
    rng.standard_normal((1, 4, 6, 6))  # of the first level's classes
    masks = np.pad(rng.standard_normal((90, 24, 32)).astype(np.float32), ((0, 0), (2, 2), (2, 2)))
    masks = np.lib.stride_tricks.sliding_window_view(masks, (5, 5), (1, 2)).mean((3, 4))
    masks = np.split(sigmoid(4 * masks)[None], np.cumsum([36, 25, 16, 9]), axis=1)

    class Prepared(solo.SOLOPostProcess):
        def judged(self, outputs):
            return outputs, (24, 32)

    outputs = {f"cls_p{i}": x for i, x in enumerate((peaks, *classes), start=2)}
    outputs |= {f"mask_p{i}": placed(x) for i, x in enumerate(masks, start=2)}
    found = Prepared(score_threshold=0.6, candidates=30, detections=12)(outputs, input_size=(90, 120))
    found = {"scores": np.asarray(found["scores"])[0], "labels": np.asarray(found["labels"])[0]}
    for name in found:
        np.testing.assert_allclose(found[name], expected["outputs"][name]["values"], rtol=1e-5)
    peaks = np.moveaxis(np.asarray(peaks), -1, 1) if last else np.asarray(peaks)
    np.testing.assert_allclose(peaks.reshape(-1), expected["outputs"]["points_nms"]["values"], rtol=1e-5)
