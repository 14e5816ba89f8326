"""Diffusion: rank by random walks on the graph of nearest neighbours, so that neighbours of neighbours count.

"Efficient Diffusion on Region Manifolds: Recovering Small Objects with Compact CNN Representations", 2016,
arXiv:1611.05113. The graph is dense here: for some ten thousand rows at most.
"""

import numpy as np

from weights.processing.retrieval.index import nearest

__all__ = ["affinity", "diffuse"]


def affinity(descriptors: np.ndarray, count: int = 50, gamma: float = 3.0) -> np.ndarray:
    """Graph of mutual neighbours: cosine ** gamma where each is among the nearest of the other, normalised by degree.

    Args:
        descriptors: (N, D) of unit length.
        count: neighbours of every row.
        gamma: power of the cosine; negative ones count as 0.

    Returns:
        (N, N), symmetric, with eigenvalues in [-1, 1].
    """
    scores, rows = nearest(descriptors, descriptors, count + 1)
    size = len(descriptors)
    found = np.zeros((size, size), descriptors.dtype)
    np.put_along_axis(found, rows, np.maximum(scores, 0) ** gamma, 1)
    np.fill_diagonal(found, 0)
    found = np.minimum(found, found.T)
    scale = 1 / np.sqrt(np.maximum(found.sum(1), 1e-12))
    return found * scale[:, None] * scale


def diffuse(
    queries: np.ndarray,
    database: np.ndarray,
    count: int = 50,
    query_count: int = 10,
    alpha: float = 0.99,
    gamma: float = 3.0,
    iterations: int = 20,
) -> np.ndarray:
    """Scores of every row of the database, by conjugate gradients on (I - alpha S) f = y.

    Args:
        queries: (Q, D) of unit length.
        database: (N, D) of unit length.
        count: neighbours in the graph S, see :func:`affinity`.
        query_count: how many neighbours of a query start the walk.
        alpha: share that continues to walk.
        gamma: see :func:`affinity`.
        iterations: steps of the solver.

    Returns:
        (Q, N), larger is better.
    """
    graph = affinity(database, count, gamma)
    scores, rows = nearest(queries, database, query_count)
    start = np.zeros((len(queries), len(database)), database.dtype)
    np.put_along_axis(start, rows, np.maximum(scores, 0) ** gamma, 1)
    found = np.zeros_like(start)
    residual = start.copy()
    direction, square = residual.copy(), (residual**2).sum(1, keepdims=True)
    for _ in range(iterations):
        moved = direction - alpha * direction @ graph
        step = square / np.maximum((direction * moved).sum(1, keepdims=True), np.finfo(start.dtype).tiny)
        found += step * direction
        residual -= step * moved
        following = (residual**2).sum(1, keepdims=True)
        direction = residual + following / np.maximum(square, np.finfo(start.dtype).tiny) * direction
        square = following
    return found
