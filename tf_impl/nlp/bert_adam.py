"""How BERT is trained: its variant of Adam, and the schedule of its learning rate.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018, arXiv:1810.04805, section A.2.

Mirror notes:
- PyTorch changes tensors in place; TensorFlow assigns to variables, the moments among them.
"""

import tensorflow as tf

__all__ = ["BertAdam", "linear_warmup"]


def linear_warmup(step: int, peak: float = 1e-4, warmup: int = 10_000, total: int = 1_000_000) -> float:
    """Learning rate of a step counted from 0: linear to ``peak`` over ``warmup`` steps, linear to 0 at ``total``."""
    if step < warmup:
        return peak * step / warmup
    return peak * max(total - step, 0) / total


class BertAdam:
    """Adam with decoupled weight decay and without bias correction (google-research/bert ``optimization.py``).

    Args:
        parameters: tensors by name; LayerNorm parameters and biases are not decayed.
        beta1, beta2, eps: of the moments; ``eps`` is added outside the root.
        weight_decay: share of a weight that is removed by a step with learning rate 1.
        max_norm: the gradients of all parameters together are clipped to this L2 norm.
    """

    def __init__(self, parameters, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.01, max_norm=1.0):
        self.parameters, self.betas, self.eps, self.max_norm = dict(parameters), (beta1, beta2), eps, max_norm
        self.decay = {
            name: 0.0 if "LayerNorm" in name or name.endswith("bias") else weight_decay for name in parameters
        }
        self.moments = {
            name: tuple(tf.Variable(tf.zeros(p.shape, p.dtype)) for _ in range(2)) for name, p in parameters.items()
        }

    def step(self, gradients, learning_rate: float) -> None:
        """Update the parameters in place from gradients by name."""
        norm = tf.sqrt(sum(tf.reduce_sum(tf.square(g)) for g in gradients.values()))
        scale = self.max_norm / tf.maximum(norm, self.max_norm)
        beta1, beta2 = self.betas
        for name, p in self.parameters.items():
            g, (m, v) = gradients[name] * scale, self.moments[name]
            m.assign(m * beta1 + g * (1 - beta1))  # mirror: changes tensors
            v.assign(v * beta2 + tf.square(g) * (1 - beta2))
            p.assign_sub((m / (tf.sqrt(v) + self.eps) + tf.convert_to_tensor(p) * self.decay[name]) * learning_rate)
