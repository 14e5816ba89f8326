"""Every term of the criterion agrees in float64."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.classification.googlenet
import torch_impl.classification.googlenet


def test_losses_agree(case, proof, holds):
    measured = holds("losses")
    if proof.entry.criterion is not None and not measured.reason:
        assert "total" in {figure.name for figure in measured.figures}


@pytest.mark.parametrize(
    "package, tensor", [(tf_impl, tf.constant), (torch_impl, torch.from_numpy)], ids=["tf_impl", "torch_impl"]
)
def test_criterion_names_the_auxiliary_outputs_that_are_not_there(package, tensor):
    criterion = package.classification.googlenet.GoogLeNetCriterion()
    with pytest.raises(ValueError, match=r"returns no aux1, aux2; build it .* or pass auxiliary=\{\}"):
        criterion(tensor(np.zeros((2, 3), np.float32)), {"labels": tensor(np.zeros(2, np.int64))})
