"""The gradient of the total loss agrees in float64 for every parameter by name."""

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase


def test_gradients_agree(case, proof, holds):
    measured = holds("gradients")
    if not measured.applies:
        return
    trained = {name for name, p in proof.twins("float64")[1].model.named_parameters() if p.requires_grad}
    assert trained <= {figure.name for figure in measured.figures}
    if trained:
        assert measured.details["largest"] > 0


class Contiguous(torch.autograd.Function):
    """The identity, whose gradient lies in memory as NCHW."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone(memory_format=torch.contiguous_format)


def test_normalisation_reads_the_gradient_of_one_sample(case, proof, monkeypatch):
    """PyTorch's batch norm misreads it where it lies in memory otherwise than the sample."""
    panel = proof.twins("float64")[1]
    if not panel.trainable() or not any(isinstance(module, _NormBase) for module in panel.model.modules()):
        return
    arrays = proof.arrays(batch=1)
    found = panel.gradients(*arrays)
    for name in ("batch_norm", "instance_norm"):
        norm = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *args, norm=norm, **options: Contiguous.apply(norm(*args, **options)))
    for name, expected in panel.gradients(*arrays).items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-7 * np.abs(expected).max() + 1e-12)
