"""Stochastic gradient descent with momentum, as in PyTorch, and learning rates that change from step to step.

Mirror notes:
- Keras multiplies the learning rate into the velocity and has no weight decay in the gradient; published training
  recipes mean PyTorch's SGD.
"""

import tensorflow as tf

__all__ = ["SGD", "set_learning_rate"]


class SGD:
    """v = momentum v + (g + decay w); w = w - lr v.

    Args:
        params: variables.
        lr: learning rate.
        momentum, weight_decay: see above.
    """

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        self.params, self.lr, self.momentum, self.weight_decay = list(params), lr, momentum, weight_decay
        self.velocities = [tf.Variable(tf.zeros(p.shape, p.dtype)) for p in self.params]

    def step(self, gradients) -> None:
        """Update the variables in place from their gradients."""
        for p, v, g in zip(self.params, self.velocities, gradients, strict=True):
            v.assign(self.momentum * v + g + self.weight_decay * p)  # mirror: training recipes mean PyTorch's SGD
            p.assign_sub(self.lr * v)


def set_learning_rate(optimizer, value: float) -> None:
    """Change the learning rate of an optimiser's next steps."""
    optimizer.lr = value
