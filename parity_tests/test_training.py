"""Three optimiser steps agree in float64: losses, parameters, batch statistics."""


def test_training_steps_agree(case, holds):
    losses = holds("training").details.get("losses")
    if losses:
        assert len(set(losses)) == len(losses), "the steps changed nothing"
