"""mmdet's CenterNet: losses of given maps against the reference's numbers, and objects that share a cell."""

import numpy as np
import pytest

from parity_tests.test_one_stage_losses import CLOSE, SCENE, both, in_float64, losses, padded, wave  # noqa: F401


def outputs_of(panel):
    return {
        "heat": panel.map(1 / (1 + np.exp(-wave((2, 5, 64, 64), 2, -2, 0.1)))),
        "wh": panel.map(wave((2, 2, 64, 64), 5, 10, 0.2)),
        "offset": panel.map(wave((2, 2, 64, 64), 0.5, 0.5, 0.3)),
    }


@both
def test_losses_of_mmdet(panel):
    criterion = panel.module("detection.centernet_mmdet").MMDetCenterNetCriterion()
    found = losses(panel, criterion, outputs_of(panel), padded(SCENE))
    for key, value in (("center_heatmap", 248.684692), ("wh", 1.133765), ("offset", 0.465430)):
        assert found[f"loss_{key}"] == pytest.approx(value, **CLOSE), key


@both
def test_of_objects_in_one_cell_the_last_ones_size_counts(panel):
    """They are one peak if they are of one class, and one size and rest in any case."""
    criterion = panel.module("detection.centernet_mmdet").MMDetCenterNetCriterion()
    first, last = np.array([[100.0, 100, 140, 140]]), np.array([[80.0, 90, 160, 150]])
    none = (np.zeros((0, 4)), np.zeros(0, int))
    both_there = padded([(np.concatenate((first, last)), np.array([2, 2])), none])
    alone = padded([(last, np.array([2])), none])
    outputs = outputs_of(panel)
    found, expected = (losses(panel, criterion, outputs, targets) for targets in (both_there, alone))
    for key in ("loss_wh", "loss_offset"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12), key
