"""L-Softmax: a margin in the angle between an embedding and its class, by multiplying the angle.

"Large-Margin Softmax Loss for Convolutional Neural Networks", 2016, arXiv:1612.02295. What to look at: neither the
embeddings nor the weights are normalised, unlike in all its descendants.

Mirror notes:
- PyTorch multiplies by the transposed weight, TensorFlow's matmul transposes it.
"""

import torch
from torch import nn

from torch_impl.losses.margin import annealing, classify, encode, multiple_angle
from torch_impl.losses.pairwise import embeddings_of, norms

__all__ = ["LSoftmaxCriterion", "annealing"]

EPS = 1e-9  # added to the product of the norms


class LSoftmaxCriterion(nn.Module):
    """Cross-entropy of |w| |x| psi(theta) for the right class and w x for the others; psi: see :func:`multiple_angle`.

    Args:
        num_classes, embedding_size: K and D.
        m: the angle is multiplied by it, 1 to 4; 1 is the plain cross-entropy.
        blend: weight of the right class's plain logit relative to that with a margin, see :func:`annealing`; training
            starts with a large one. May be set between steps.

    Inputs: ``outputs`` the embeddings (N, D), or a dict with ``"embeddings"``; ``targets["labels"]`` (N,) int, -1 does
        not count.
    Returns: dict of scalars: ``"l_softmax"``, ``"total"`` (the same).
    """

    def __init__(self, num_classes: int, embedding_size: int, m: int = 4, blend: float = 0.0):
        super().__init__()
        self.m, self.blend = m, blend
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, outputs, targets):
        x = embeddings_of(outputs)
        logits = x @ self.weight.T  # mirror: transposed weight
        product = norms(x) * norms(self.weight).T
        wanted = product * multiple_angle(logits / (product + EPS), self.m)
        target = encode(targets["labels"], logits.shape[1], x.dtype)
        logits = logits + target * (wanted - logits) / (1 + self.blend)
        loss = classify(logits, targets["labels"])
        return {"l_softmax": loss, "total": loss}
