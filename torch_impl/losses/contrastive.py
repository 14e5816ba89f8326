"""Losses between views of the same images: NT-Xent, cosine prediction, and swapped assignments by optimal transport.

"A Simple Framework for Contrastive Learning of Visual Representations", 2020, arXiv:2002.05709; "Bootstrap your own
latent", 2020, arXiv:2006.07733; "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020,
arXiv:2006.09882.

Mirror notes:
- Constant targets: ``detach`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
"""

import torch
import torch.nn.functional as F

from torch_impl.losses.ctc import logsumexp
from torch_impl.losses.pairwise import l2_normalize, lowest

__all__ = ["cosine_prediction", "nt_xent", "sinkhorn", "swapped_prediction"]


def nt_xent(z1, z2, temperature: float = 0.1):
    """Cross-entropy of identifying the other view of an image among all other views.

    Args:
        z1, z2: (N, D), row i of both comes from the same image.
        temperature: of the cosines.

    Returns:
        (2N,) losses: of ``z1``'s rows, then of ``z2``'s.
    """
    z1, z2 = l2_normalize(z1), l2_normalize(z2)
    n = z1.shape[0]
    row = torch.arange(n, device=z1.device)
    own = row[:, None] == row[None]
    ab = z1 @ z2.T / temperature
    aa, bb = (torch.where(own, lowest(z), z @ z.T / temperature) for z in (z1, z2))
    pair = (ab * own.to(ab.dtype)).sum(1)
    first = logsumexp(torch.cat([ab, aa], 1), 1) - pair
    second = logsumexp(torch.cat([ab.T, bb], 1), 1) - pair
    return torch.cat([first, second])


def cosine_prediction(prediction, target):
    """Cosines of predictions (N, D) and targets (N, D), which have no gradient; (N,)."""
    return (l2_normalize(prediction) * l2_normalize(target.detach())).sum(1)  # mirror: Constant targets


def sinkhorn(scores, epsilon: float = 0.05, iterations: int = 3):
    """Assignments to prototypes, each of which gets an equal share of the batch; without gradient.

    Args:
        scores: (B, K).
        epsilon: smoothness of the assignment.
        iterations: of the Sinkhorn-Knopp algorithm.

    Returns:
        (B, K), rows sum to 1.

    Source: algorithm 1 of arXiv:2006.09882; the largest score is subtracted first, which only prevents overflow.
    """
    scores = scores.detach()
    q = torch.exp((scores - scores.max()) / epsilon).T
    q = q / q.sum()
    prototypes, batch = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / prototypes
        q = q / q.sum(0, keepdim=True) / batch
    return (q * batch).T


def swapped_prediction(scores, assignments, temperature: float = 0.1):
    """Cross-entropy of the scores (N, K) of a view against the assignments (N, K) of another; their mean."""
    return -(assignments * F.log_softmax(scores / temperature, dim=1)).sum(1).mean()
