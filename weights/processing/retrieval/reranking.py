"""Re-ranking by k-reciprocal neighbours: two images are near if they have the same neighbours.

"Re-ranking Person Re-identification with k-reciprocal Encoding", 2017, arXiv:1701.08398. Numbers: JDAI-CV/fast-reid
``fastreid/evaluation/rerank.py`` (Apache-2.0). Sets are rows of Boolean matrices here, and their sizes matrix products.
"""

import numpy as np

__all__ = ["rerank"]

BLOCK = 2**24  # numbers of one step of the comparison of all sets


def reciprocal(order: np.ndarray, count: int) -> np.ndarray:
    """Which pairs are among the first ``count`` of each other, (N, N) bool, from every row's order of neighbours."""
    forward = np.zeros(order.shape, bool)
    np.put_along_axis(forward, order[:, :count], True, 1)
    return forward & forward.T


def rerank(
    query_gallery: np.ndarray,
    query_query: np.ndarray,
    gallery_gallery: np.ndarray,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> np.ndarray:
    """Distances that mix the Jaccard distance of neighbourhoods with the first ones.

    Args:
        query_gallery, query_query, gallery_gallery: (Q, G), (Q, Q), (G, G) distances (not squared).
        k1: neighbours of the sets.
        k2: neighbours over which the sets are averaged; 1 for none.
        weight: of the first distances (lambda).

    Returns:
        (Q, G), smaller is nearer.
    """
    queries = len(query_query)
    distances = np.block([[query_query, query_gallery], [query_gallery.T, gallery_gallery]]) ** 2
    largest = distances.max(0)
    distances = (distances / np.where(largest > 0, largest, 1)).T  # equal images only: all distances are 0
    order = distances.argsort(1, kind="stable")
    mutual = reciprocal(order, k1 + 1)
    half = reciprocal(order, int(np.around(k1 / 2)) + 1)  # half to even, as in the reference
    # a member adds its own, smaller set if more than two thirds of it are in the set already
    shared = mutual.astype(np.float32) @ half.T.astype(np.float32)
    brings = mutual & (shared > 2 / 3 * half.sum(1))
    members = mutual | (brings.astype(np.float32) @ half.astype(np.float32) > 0)
    sets = np.exp(-distances) * members
    sets /= sets.sum(1, keepdims=True)
    if k2 != 1:
        sets = sets[order[:, :k2]].mean(1)
    step = max(1, BLOCK // distances.size)
    blocks = [sets[i : min(i + step, queries), None] for i in range(0, queries, step)]
    shared = np.concatenate([np.minimum(block, sets[None]).sum(2) for block in blocks])
    jaccard = 1 - shared / (2 - shared)
    return ((1 - weight) * jaccard + weight * distances[:queries])[:, queries:]
