"""Losses between views of the same images: NT-Xent, cosine prediction, and swapped assignments by optimal transport.

"A Simple Framework for Contrastive Learning of Visual Representations", 2020, arXiv:2002.05709; "Bootstrap your own
latent", 2020, arXiv:2006.07733; "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020,
arXiv:2006.09882.

Mirror notes:
- Constant targets: ``detach`` in PyTorch, ``tf.stop_gradient`` in TensorFlow.
"""

import tensorflow as tf

from tf_impl.losses.ctc import logsumexp
from tf_impl.losses.pairwise import l2_normalize, lowest

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
    row = tf.range(tf.shape(z1)[0])
    own = row[:, None] == row[None]
    ab = tf.matmul(z1, z2, transpose_b=True) / temperature
    alone = tf.constant(lowest(z1), z1.dtype)
    aa, bb = (tf.where(own, alone, tf.matmul(z, z, transpose_b=True) / temperature) for z in (z1, z2))
    pair = tf.reduce_sum(ab * tf.cast(own, ab.dtype), 1)
    first = logsumexp(tf.concat([ab, aa], 1), 1) - pair
    second = logsumexp(tf.concat([tf.transpose(ab), bb], 1), 1) - pair
    return tf.concat([first, second], 0)


def cosine_prediction(prediction, target):
    """Cosines of predictions (N, D) and targets (N, D), which have no gradient; (N,)."""
    target = tf.stop_gradient(target)  # mirror: Constant targets
    return tf.reduce_sum(l2_normalize(prediction) * l2_normalize(target), 1)


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
    scores = tf.stop_gradient(scores)
    q = tf.transpose(tf.exp((scores - tf.reduce_max(scores)) / epsilon))
    q = q / tf.reduce_sum(q)
    prototypes, batch = (tf.cast(n, q.dtype) for n in tf.unstack(tf.shape(q)))
    for _ in range(iterations):
        q = q / tf.reduce_sum(q, 1, keepdims=True) / prototypes
        q = q / tf.reduce_sum(q, 0, keepdims=True) / batch
    return tf.transpose(q * batch)


def swapped_prediction(scores, assignments, temperature: float = 0.1):
    """Cross-entropy of the scores (N, K) of a view against the assignments (N, K) of another; their mean."""
    return -tf.reduce_mean(tf.reduce_sum(assignments * tf.nn.log_softmax(scores / temperature, axis=1), 1))
