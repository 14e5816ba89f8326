"""Outputs agree in float64, in evaluation and in training mode."""


def test_outputs_agree(case, holds):
    measured = holds("outputs")
    assert measured.applies or measured.reason
