"""Optimisers whose formulas differ between the frameworks.

Mirror notes:
- Keras adds Adam's epsilon before the bias correction of the second moment, PyTorch after it.
"""

import tensorflow as tf

__all__ = ["Adam"]


class Adam:
    """Adam (arXiv:1412.6980) with epsilon where the paper's algorithm 1 has it.

    Args:
        params: variables.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the corrected second moment.
    """

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.steps = 0
        self.moments = [tuple(tf.Variable(tf.zeros(p.shape, p.dtype)) for _ in range(2)) for p in self.params]

    def step(self, gradients) -> None:
        """Update the variables in place from their gradients."""
        self.steps += 1
        beta1, beta2 = self.betas
        for p, (m, v), g in zip(self.params, self.moments, gradients, strict=True):
            m.assign(beta1 * m + (1 - beta1) * g)
            v.assign(beta2 * v + (1 - beta2) * tf.square(g))
            root = tf.sqrt(v / (1 - beta2**self.steps)) + self.eps  # mirror: epsilon before
            p.assign_sub(self.lr / (1 - beta1**self.steps) * m / root)
