"""Indexes: exact search, inverted lists with product quantisation, and those of faiss where it is installed.

"Product Quantization for Nearest Neighbor Search", 2011, 10.1109/TPAMI.2010.57. :class:`IVFPQ` is of the kind of
``faiss.IndexIVFPQ(IndexFlatL2(d), d, lists, parts, 8)``.
"""

import numpy as np

__all__ = ["IVFPQ", "faiss_index", "k_means", "nearest"]


def nearest(queries: np.ndarray, database: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the largest inner products.

    Args:
        queries: (Q, D).
        database: (N, D).
        count: how many; at most N.

    Returns:
        scores: (Q, count), descending.
        rows: (Q, count) int64; of equal scores the lower row comes first.
    """
    scores = queries @ database.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, : min(count, len(database))]
    return np.take_along_axis(scores, rows, 1), rows


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)


def k_means(x: np.ndarray, count: int, seed: int = 0, iterations: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from rows that are drawn far apart (k-means++).

    Args:
        x: (N, D).
        count: clusters, at most N.
        seed: of the first centres.
        iterations: at most.

    Returns:
        centres: (count, D); one without rows stays where it is.
        labels: (N,) int64.

    Raises:
        ValueError: if there are fewer rows than clusters.
    """
    if count > len(x):
        raise ValueError(f"count={count} clusters need as many rows, got {len(x)}")
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(x)))]
    far = _squared(x, x[chosen])[:, 0]
    for _ in range(count - 1):
        total = far.sum()
        chosen.append(int(rng.choice(len(x), p=far / total)) if total > 0 else int(rng.integers(len(x))))
        far = np.minimum(far, _squared(x, x[chosen[-1:]])[:, 0])
    centres, labels = x[chosen].astype(np.float64), None
    for _ in range(iterations):
        found = _squared(x, centres).argmin(1)
        if labels is not None and (found == labels).all():
            break
        labels = found
        members = np.bincount(labels, minlength=count)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, x)
        centres = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres)
    return centres, labels


class IVFPQ:
    """Inverted lists of residuals that are stored as one byte for each part.

    Args:
        database: (N, D).
        lists: coarse clusters.
        parts: of a residual, each with its own code book; divides D.
        codes: entries of a code book, at most 256 and N.
        seed: of the clusters.
    """

    def __init__(self, database: np.ndarray, lists: int, parts: int, codes: int = 256, seed: int = 0):
        if database.shape[1] % parts:
            raise ValueError(f"parts={parts} must divide the size of a descriptor, {database.shape[1]}")
        if not 0 < codes <= 256:
            raise ValueError(f"codes={codes} must be 1 to 256, a byte")
        self.coarse, self.list_of = k_means(database, lists, seed)
        residuals = (database - self.coarse[self.list_of]).reshape(len(database), parts, -1)
        learned = [k_means(residuals[:, i], min(codes, len(database)), seed + i) for i in range(parts)]
        self.books = np.stack([book for book, _ in learned])  # (parts, codes, D / parts)
        self.codes = np.stack([labels for _, labels in learned], 1).astype(np.uint8)  # (N, parts)

    def search(self, queries: np.ndarray, count: int, probes: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows by their codes, in the ``probes`` nearest lists.

        Returns:
            distances: (Q, count), squared, ascending; infinite where the lists have too few rows.
            rows: (Q, count) int64, -1 there.
        """
        coarse = _squared(queries, self.coarse)
        probed = np.argsort(coarse, axis=1, kind="stable")[:, :probes]
        residuals = (queries[:, None] - self.coarse[probed]).reshape(len(queries), probed.shape[1], len(self.books), -1)
        # distance of every part of every residual to every entry of its book, then added up by the codes
        tables = ((residuals[:, :, :, None] - self.books) ** 2).sum(-1)  # (Q, probes, parts, codes)
        by_part = np.arange(len(self.books))
        found = np.full((len(queries), len(self.codes)), np.inf)
        for place in range(probed.shape[1]):
            summed = tables[:, place][:, by_part, self.codes].sum(2)
            found = np.where(self.list_of == probed[:, place, None], summed, found)
        rows = np.argsort(found, axis=1, kind="stable")[:, :count]
        distances = np.take_along_axis(found, rows, 1)
        return distances, np.where(np.isinf(distances), -1, rows)


def faiss_index(database: np.ndarray, kind: str = "flat", lists: int = 64, parts: int = 8, links: int = 32):
    """A trained and filled index of the faiss library.

    Args:
        database: (N, D); inner products for "flat" and "hnsw", squared distances for the others.
        kind: "flat", "ivf", "pq", "ivfpq" or "hnsw".
        lists, parts, links: of inverted lists, of product quantisation, of the graph.

    Raises:
        ValueError: if ``kind`` is unknown.
        ModuleNotFoundError: if faiss is not installed.
    """
    kinds = ("flat", "ivf", "pq", "ivfpq", "hnsw")
    if kind not in kinds:
        raise ValueError(f"kind={kind!r} must be one of {kinds}")
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"kind={kind!r} needs the package faiss-cpu, which is not installed") from None
    size = database.shape[1]
    coarse = faiss.IndexFlatL2(size)
    index = {
        "flat": lambda: faiss.IndexFlatIP(size),
        "ivf": lambda: faiss.IndexIVFFlat(coarse, size, lists),
        "pq": lambda: faiss.IndexPQ(size, parts, 8),
        "ivfpq": lambda: faiss.IndexIVFPQ(coarse, size, lists, parts, 8),
        "hnsw": lambda: faiss.IndexHNSWFlat(size, links, faiss.METRIC_INNER_PRODUCT),
    }[kind]()
    rows = np.ascontiguousarray(database, np.float32)
    index.train(rows)
    index.add(rows)
    return index
