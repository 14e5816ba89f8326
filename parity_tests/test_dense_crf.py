"""The dense CRF against pydensecrf, and its filter against sums over all pairs of points."""

import numpy as np
import pytest

from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from weights.processing.segmentation.dense_crf import PermutohedralLattice, dense_crf

FILE = "pydensecrf_dense_crf"
OPTIONS = {
    "deeplabv2": {},
    "once": {"iterations": 1},
    "wide": {"iterations": 5, "pos_xy_std": 3.0, "bi_w": 5.0, "bi_xy_std": 50.0, "bi_rgb_std": 10.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_beliefs_are_those_of_pydensecrf(name):
    expected = fingerprints.load(FILE)
    given = fingerprints.inputs_of(expected)
    found = dense_crf(given["probabilities"], given["image"], **OPTIONS[name])
    np.testing.assert_allclose(found.sum(0), 1)
    for figure in compare_with_fingerprint(name, found, expected["outputs"][name]):
        assert figure.relative < 2e-5, figure  # the reference computes in single precision


@pytest.mark.parametrize("dim", [2, 5])
def test_filter_is_nearly_gaussian(dim):
    points = np.random.default_rng(dim).uniform(0, 2, (200, dim))
    kernel, lattice = np.exp(-((points[:, None] - points) ** 2).sum(2) / 2), PermutohedralLattice(points)
    ones = np.ones((200, 1))
    found, wanted = lattice(points) / lattice(ones), kernel @ points / (kernel @ ones)
    assert np.abs(found - wanted).max() < 0.25 * np.abs(points - wanted).max()


def test_a_wrong_size_is_named():
    with pytest.raises(ValueError, match="image must have the shape"):
        dense_crf(np.full((2, 4, 5), 0.5), np.zeros((5, 4, 3)))
