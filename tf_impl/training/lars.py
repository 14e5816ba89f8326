"""LARS: every tensor's learning rate is proportional to the ratio of its norm to its gradient's.

"Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888. Two variants are in use: that of
google-research/simclr ``lars_optimizer.py`` (Apache-2.0), with the learning rate inside the momentum, and LARC of
NVIDIA apex (BSD-3), which scales the gradient of plain SGD.

Mirror notes:
- PyTorch's optimisers read the gradients from the parameters; these are passed the gradients.
"""

import tensorflow as tf

__all__ = ["LARS"]

EPS = 1e-8  # added to the denominator of LARC


class LARS:
    """Gradient descent with momentum and layer-wise rates.

    Args:
        params: variables.
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
        self.params, self.lr = list(params), lr
        self.velocities = [tf.Variable(tf.zeros(p.shape, p.dtype)) for p in self.params]
        self.momentum, self.weight_decay, self.trust = momentum, weight_decay, trust
        self.form, self.exclude_vectors = form, exclude_vectors

    def scaled(self, p, g):
        """The gradient with decay, times the layer's rate."""
        if self.exclude_vectors and p.shape.rank <= 1:
            return g
        p = tf.convert_to_tensor(p)
        length, steepness = tf.norm(p), tf.norm(g)
        one = tf.ones_like(length)
        if self.form == "larc":
            rate = self.trust * length / (steepness + self.weight_decay * length + EPS)
            return (g + self.weight_decay * p) * tf.where((length > 0) & (steepness > 0), rate, one)
        g = g + self.weight_decay * p
        steepness = tf.norm(g)
        return g * tf.where((length > 0) & (steepness > 0), self.trust * length / steepness, one)

    def step(self, gradients) -> None:
        """Update the variables in place from their gradients; those without a gradient stay."""
        for p, v, g in zip(self.params, self.velocities, gradients, strict=True):
            if g is None:
                continue
            rate = self.lr if self.form == "simclr" else 1.0
            v.assign(self.momentum * v + rate * self.scaled(p, g))  # mirror: read the gradients
            p.assign_sub(v if self.form == "simclr" else self.lr * v)
