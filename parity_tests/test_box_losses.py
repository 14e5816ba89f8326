"""Elementary losses of classes and boxes in both panels, against their formulas."""

import numpy as np
import pytest

from parity_tests.boxes import both, random_boxes

pytestmark = pytest.mark.usefixtures("double_precision")


@both
def test_focal_loss(panel):
    x = np.array([-700.0, -30, -1.5, 0, 0.3, 2, 30, 700])
    for y in (0.0, 1.0):
        for alpha, gamma in ((0.25, 2.0), (-1.0, 1.5), (0.7, 0.0)):
            found = panel.focal.sigmoid_focal_loss(panel.tensor(x), panel.tensor(np.full(8, y)), alpha, gamma)
            signed = -x if y else x  # logit of the wrong answer
            entropy = np.logaddexp(0, signed)
            weight = 1.0 if alpha < 0 else alpha if y else 1 - alpha
            expected = weight * np.exp(-gamma * np.logaddexp(0, -signed)) * entropy
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-15)


@both
def test_box_losses(panel):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 6, 4))
    b[0] = a[0]
    x, y = panel.tensor(a), panel.tensor(b)
    np.testing.assert_allclose(panel.box.l1_loss(x, y), np.abs(a - b).sum(-1), rtol=1e-13)
    d = np.abs(a - b)
    np.testing.assert_allclose(
        panel.box.smooth_l1_loss(x, y, 0.5), np.where(d < 0.5, d * d, d - 0.25).sum(-1), rtol=1e-13
    )
    boxes = random_boxes(rng, 5)
    np.testing.assert_allclose(panel.box.giou_loss(panel.tensor(boxes), panel.tensor(boxes)), 0, atol=1e-8)
