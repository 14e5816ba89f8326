"""Assignment by overlap and rows by index in both panels, against the rule as plain loops."""

import numpy as np
import pytest

from parity_tests.boxes import both, plain_assignment

pytestmark = pytest.mark.usefixtures("double_precision")


@both
@pytest.mark.parametrize("low_quality", ["own", "forced", None])
@pytest.mark.parametrize("min_positive, zero_matches", [(0.0, True), (0.0, False), (0.3, True)])
def test_assignment_is_the_rule(panel, low_quality, min_positive, zero_matches):
    rng = np.random.default_rng(3)
    iou = np.round(rng.uniform(0, 0.8, (40, 4, 11)), 1)  # many ties
    iou[::3, 1] = 0  # a ground truth that overlaps nothing
    iou[::4, 3] = iou[::4, 2]  # two equal ones
    valid = rng.random((40, 4)) < 0.7
    valid[5] = False
    iou[~valid] = np.nan
    options = dict(low_quality=low_quality, min_positive=min_positive, zero_matches=zero_matches)
    found = panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), 0.5, 0.4, **options)
    expected = [plain_assignment(np.nan_to_num(a), b, 0.5, 0.4, *options.values()) for a, b in zip(iou, valid)]
    np.testing.assert_array_equal(found, expected)
    assert {-1, -2} <= set(np.unique(expected))


@both
def test_assignment_of_two_equal_objects(panel):
    """torchvision gives their anchors to the first, mmdet to the last."""
    iou = np.array([[[0.7, 0.45, 0.2], [0.7, 0.45, 0.2]]])
    valid = np.ones((1, 2), bool)
    for low_quality, expected in (("own", [0, -2, -1]), ("forced", [1, -2, -1])):
        found = panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), low_quality=low_quality)
        assert np.asarray(found)[0].tolist() == expected
    with pytest.raises(ValueError, match="low_quality='all' must be 'own', 'forced' or None"):
        panel.assignment.assign_max_iou(panel.tensor(iou), panel.tensor(valid), low_quality="all")


@both
def test_rows_by_index(panel):
    values = np.arange(144).reshape(2, 3, 4, 2, 3)
    index = np.array([[2, -1], [-2, 1]])
    for rows in (values[..., 0, 0, 0], values[..., 0, 0], values[..., 0], values):
        found = panel.rows.take_rows(panel.tensor(rows), panel.tensor(index))
        np.testing.assert_array_equal(found, [rows[0, [2, 0]], rows[1, [0, 1]]])
