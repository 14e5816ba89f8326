"""Networks that are trained in turn, each with its own optimiser.

Mirror notes:
- In PyTorch the graph of operations belongs to the loss; in TensorFlow a tape must have recorded it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

__all__ = ["Player"]


class Player:
    """The networks that lower one loss together.

    Args:
        networks: by their names in the model.
        optimizer: makes the optimiser of a list of parameters.

    ``gradients`` holds those of the last step by name.
    """

    def __init__(self, networks: Mapping[str, nn.Module], optimizer: Callable):
        self.parameters = {
            f"{name}.{key}": parameter
            for name, network in networks.items()
            for key, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = optimizer(list(self.parameters.values()))
        self.gradients: dict[str, torch.Tensor] = {}

    def lower(self, loss) -> None:
        """One step down a scalar loss; no other network gets a gradient."""
        gradients = torch.autograd.grad(loss, list(self.parameters.values()))  # mirror: belongs to the loss
        for parameter, gradient in zip(self.parameters.values(), gradients):
            parameter.grad = gradient
        self.optimizer.step()
        self.gradients = dict(zip(self.parameters, gradients))
