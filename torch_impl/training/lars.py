"""LARS: every tensor's learning rate is proportional to the ratio of its norm to its gradient's.

"Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888. Two variants are in use: that of
google-research/simclr ``lars_optimizer.py`` (Apache-2.0), with the learning rate inside the momentum, and LARC of
NVIDIA apex (BSD-3), which scales the gradient of plain SGD.

Mirror notes:
- PyTorch's optimisers read the gradients from the parameters; these are passed the gradients.
"""

import torch

__all__ = ["LARS"]

EPS = 1e-8  # added to the denominator of LARC


class LARS(torch.optim.Optimizer):
    """Gradient descent with momentum and layer-wise rates.

    Args:
        params: parameters.
        lr: learning rate.
        momentum, weight_decay: the decay is added to the gradient.
        trust: the coefficient eta.
        form: "simclr" or "larc".
        exclude_vectors: biases and normalisation, all tensors with one axis, have no decay and the plain learning rate.

    Raises: ValueError if ``form`` is unknown.
    """

    def __init__(
        self,
        params,
        lr: float = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
        form: str = "simclr",
        exclude_vectors: bool = True,
    ):
        if form not in ("simclr", "larc"):
            raise ValueError(f"form={form!r} must be 'simclr' or 'larc'")
        super().__init__(params, {"lr": lr})
        self.momentum, self.weight_decay, self.trust = momentum, weight_decay, trust
        self.form, self.exclude_vectors = form, exclude_vectors

    def scaled(self, p, g):
        """The gradient with decay, times the layer's rate."""
        if self.exclude_vectors and p.ndim <= 1:
            return g
        length, steepness = p.norm(), g.norm()
        if self.form == "larc":
            rate = self.trust * length / (steepness + self.weight_decay * length + EPS)
            return (g + self.weight_decay * p) * torch.where((length > 0) & (steepness > 0), rate, 1)
        g = g + self.weight_decay * p
        steepness = g.norm()
        return g * torch.where((length > 0) & (steepness > 0), self.trust * length / steepness, 1)

    @torch.no_grad()
    def step(self, closure=None):
        """Update the parameters in place from their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                v = self.state[p].setdefault("velocity", torch.zeros_like(p))
                rate = group["lr"] if self.form == "simclr" else 1.0
                v.mul_(self.momentum).add_(rate * self.scaled(p, p.grad))  # mirror: read the gradients
                p.sub_(v if self.form == "simclr" else group["lr"] * v)
