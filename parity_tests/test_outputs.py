"""Outputs agree in float64, in evaluation and in training mode."""


def test_outputs_agree(case, holds):
    assert holds("outputs").applies
