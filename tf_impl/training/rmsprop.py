"""RMSProp as in PyTorch.

Mirror notes:
- Keras adds epsilon inside the root of the mean square, PyTorch after it.
"""

import tensorflow as tf

__all__ = ["RMSprop"]


class RMSprop:
    """v = alpha v + (1 - alpha) g^2; w = w - lr g / (sqrt(v) + eps).

    Args:
        params: variables.
        lr: learning rate.
        alpha: decay of the mean square.
        eps: added to its root.
    """

    def __init__(self, params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.squares = [tf.Variable(tf.zeros(p.shape, p.dtype)) for p in self.params]

    def step(self, gradients) -> None:
        """Update the variables in place from their gradients."""
        for p, v, g in zip(self.params, self.squares, gradients, strict=True):
            v.assign(self.alpha * v + (1 - self.alpha) * tf.square(g))
            p.assign_sub(self.lr * g / (tf.sqrt(v) + self.eps))  # mirror: inside the root
