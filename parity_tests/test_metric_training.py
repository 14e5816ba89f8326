"""Losses with parameters: three steps on class weights, centres and borders are the same in both panels."""

import numpy as np
import pytest

from parity_tests.harness.case import cases
from parity_tests.harness.measure import BOUNDS, Proof, compare

LEARNED = [
    case.name
    for case in cases().values()
    if case.entry.family == "metric" and case.entry.kind == "loss" and "num_classes" in case.options
]


@pytest.mark.parametrize("name", LEARNED)
def test_three_steps_on_the_parameters_of_a_loss(name):
    proof = Proof(cases()[name])
    twins = proof.twins("float64")
    if not twins[1]._trainable():
        pytest.skip("moved by a rule of its own, not by gradient")
    before = twins[1].state()
    histories = [panel.train(*proof.arrays(), proof.case.learning_rate) for panel in twins]
    figures = [f for a, b in zip(*histories, strict=True) for f in compare(a, b)]
    figures += compare(twins[0].state(), twins[1].state())
    assert max(f.relative for f in figures) <= BOUNDS["training"], figures
    assert any(not np.array_equal(before[key], value) for key, value in twins[1].state().items())
