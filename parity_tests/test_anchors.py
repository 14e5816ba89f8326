"""Anchors of a cell and of a map in both panels."""

import numpy as np
import pytest

from parity_tests.boxes import TF, TORCH, anchors_of, both
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint

pytestmark = pytest.mark.usefixtures("double_precision")


@both
def test_anchors_of_a_cell(panel):
    sizes = [32 * 2 ** (i / 3) for i in range(3)]
    cell = panel.anchors.cell_anchors(sizes, (0.5, 1.0, 2.0))
    widths = [22.6274, 28.5088, 35.9188, 16, 20.1587, 25.3984, 11.3137, 14.2544, 17.9594]
    np.testing.assert_allclose(cell[:, 2], widths, atol=1e-4)
    np.testing.assert_allclose(cell[:, 3], [*widths[6:], *widths[3:6], *widths[:3]], atol=1e-4)
    np.testing.assert_array_equal(cell[:, :2], -cell[:, 2:])
    # halves go to the even side: 101 / 2 = 50.5 -> 50, 203 / 2 = 101.5 -> 102
    assert panel.anchors.cell_anchors([101, 203], [1.0], True)[:, 2].tolist() == [50, 102]


@both
def test_anchors_of_a_map(panel):
    cell = panel.anchors.cell_anchors([4, 8], [1.0])
    found = panel.anchors.grid_anchors(cell, (2, 3), (5, 7), 0.5).reshape(2, 3, 2, 4)
    for y, x, k in np.ndindex(2, 3, 2):
        cy, cx, half = (y + 0.5) * 5, (x + 0.5) * 7, (2, 4)[k]
        np.testing.assert_array_equal(found[y, x, k], [cx - half, cy - half, cx + half, cy + half])


def test_anchors_of_torchvision():
    expected = fingerprints.load("torchvision_retinanet_resnet50_fpn")["outputs"]["anchors_image0"]
    for panel in (TF, TORCH):
        anchors = np.concatenate(list(anchors_of(panel, (128, 160), True).values()))
        for figure in compare_with_fingerprint("anchors", anchors, expected):
            assert figure.relative < 1e-6, figure
