"""Moving averages of a network's parameters, kept outside the network.

Mirror notes:
- The averages are kept under PyTorch's names in both panels.
"""

import torch
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """Every parameter p has an average a = momentum a + (1 - momentum) p, which starts as p.

    Args:
        network: whose parameters are followed.
        momentum: of the averages.

    ``values`` holds them by name; ``store`` writes them to the network, or to another of the same kind.
    """

    def __init__(self, network: nn.Module, momentum: float = 0.999):
        self.network, self.momentum = network, momentum
        # mirror: under PyTorch's names
        self.values = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, momentum: float | None = None) -> None:
        """Update the averages once; with another momentum if one is given."""
        momentum = self.momentum if momentum is None else momentum
        for name, p in self.network.named_parameters():
            self.values[name] = momentum * self.values[name] + (1 - momentum) * p

    @torch.no_grad()
    def store(self, network: nn.Module | None = None) -> None:
        """Set the parameters of the network, or of another, to the averages."""
        for name, p in (network or self.network).named_parameters():
            p.copy_(self.values[name])
