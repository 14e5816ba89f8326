"""Stochastic gradient descent with momentum, as in PyTorch, and learning rates that change from step to step.

Mirror notes:
- Keras multiplies the learning rate into the velocity and has no weight decay in the gradient; published training
  recipes mean PyTorch's SGD.
"""

from torch.optim import SGD  # mirror: training recipes mean PyTorch's SGD

__all__ = ["SGD", "set_learning_rate"]


def set_learning_rate(optimizer, value: float) -> None:
    """Change the learning rate of an optimiser's next steps."""
    for group in optimizer.param_groups:
        group["lr"] = value
