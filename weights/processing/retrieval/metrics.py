"""Quality of rankings: average precision in two variants, cumulative matches, recall, precision, mutual information.

The two variants differ: retrieval benchmarks add up trapezoids under the precision-recall curve (filipradenovic/
cnnimageretrieval-pytorch ``evaluate.py``, MIT), re-identification averages the precision at the hits
(JDAI-CV/fast-reid, Apache-2.0).
"""

from collections.abc import Mapping

import numpy as np

__all__ = [
    "average_precision",
    "mean_average_precision",
    "normalized_mutual_information",
    "recall_at_k",
    "reid_evaluation",
    "revisited",
]


def average_precision(positions, relevant: int) -> float:
    """Area under the precision-recall curve, by trapezoids.

    Args:
        positions: ascending 0-based positions of the hits in a ranking without junk.
        relevant: how many hits are possible.
    """
    position, hit = np.asarray(positions, np.float64), np.arange(len(positions))
    before = np.where(position == 0, 1.0, hit / np.maximum(position, 1))
    return float(((before + (hit + 1) / (position + 1)) / 2).sum() / relevant)


def revisited(truth: Mapping, protocol: str) -> dict:
    """Which images count in a protocol of Revisited Oxford and Paris (arXiv:1803.11285).

    Args:
        truth: ``"easy"``, ``"hard"``, ``"junk"``: rows of the database.
        protocol: "easy", "medium" or "hard".

    Returns:
        dict: ``"ok"`` and ``"junk"``, rows.
    """
    parts = {"easy": (("easy",), ("junk", "hard")), "medium": (("easy", "hard"), ("junk",))}
    parts["hard"] = (("hard",), ("junk", "easy"))
    if protocol not in parts:
        raise ValueError(f"protocol={protocol!r} must be one of {tuple(parts)}")
    ok, junk = (np.concatenate([np.asarray(truth[key], np.int64) for key in keys]) for keys in parts[protocol])
    return {"ok": ok, "junk": junk}


def mean_average_precision(ranks: np.ndarray, truth, cuts=(1, 5, 10)) -> dict:
    """Retrieval style.

    Args:
        ranks: (Q, N) int, rows of the database from the best on.
        truth: for each query a dict of ``"ok"`` and ``"junk"`` rows; junk is taken out of the ranking. A query without
            ``"ok"`` rows does not count.
        cuts: for the precision among the first k, which never counts beyond the last hit.

    Returns:
        dict: ``"map"``; ``"aps"`` (Q,), NaN for queries that do not count; ``"precision"`` (len(cuts),).
    """
    aps, precision = np.full(len(ranks), np.nan), np.full((len(ranks), len(cuts)), np.nan)
    for i, (rank, query) in enumerate(zip(ranks, truth, strict=True)):
        ok = np.asarray(query["ok"], np.int64)
        if not len(ok):
            continue
        kept = rank[~np.isin(rank, np.asarray(query["junk"], np.int64))]
        positions = np.flatnonzero(np.isin(kept, ok))
        aps[i] = average_precision(positions, len(ok))
        limit = np.minimum(cuts, positions.max(initial=-1) + 1)
        precision[i] = [(positions < k).sum() / max(k, 1) for k in limit]
    return {"map": float(np.nanmean(aps)), "aps": aps, "precision": np.nanmean(precision, 0)}


def reid_evaluation(
    distances: np.ndarray, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank: int = 50
) -> dict:
    """Re-identification style: images of the same person from the same camera are taken out of the ranking.

    Args:
        distances: (Q, G).
        query_ids, gallery_ids, query_cameras, gallery_cameras: (Q,), (G,), (Q,), (G,) int.
        max_rank: length of the curve, at most G.

    Returns:
        dict: ``"cmc"`` (max_rank,), the share of queries with a hit among the first k; ``"map"``; ``"minp"``, hits per
        rank of the last hit. Queries without a hit in the gallery do not count.

    Raises:
        ValueError: if no query has a hit.
    """
    query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
    order = np.argsort(distances, axis=1, kind="stable")
    same = gallery_ids[order] == query_ids[:, None]
    kept = ~(same & (np.asarray(gallery_cameras)[order] == np.asarray(query_cameras)[:, None]))
    hits = same & kept
    counted = hits.any(1)
    if not counted.any():
        raise ValueError("gallery_ids: no query has an image of another camera in the gallery")
    hits, rank = hits[counted], kept[counted].cumsum(1)
    found = hits.cumsum(1)
    total = found[:, -1]
    first = np.where(hits, rank, rank.shape[1] + 1).min(1)
    last = np.where(hits, rank, 0).max(1)
    precision = np.where(hits, found / np.maximum(rank, 1), 0).sum(1) / total
    cuts = np.arange(1, min(max_rank, distances.shape[1]) + 1)
    return {
        "cmc": (first[:, None] <= cuts).mean(0),
        "map": float(precision.mean()),
        "minp": float((total / last).mean()),
    }


def recall_at_k(embeddings: np.ndarray, labels, cuts=(1, 2, 4, 8)) -> dict:
    """Share of rows that have one of their own class among the k nearest others (cosine).

    Args:
        embeddings: (N, D).
        labels: (N,) int.
        cuts: the k.
    """
    labels = np.asarray(labels)
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : max(cuts)]
    hits = labels[order] == labels[:, None]
    return {k: float(hits[:, :k].any(1).mean()) for k in cuts}


def normalized_mutual_information(labels, clusters) -> float:
    """Mutual information of two labellings (N,) over the mean of their entropies; 1 if only the names differ."""
    _, rows = np.unique(labels, return_inverse=True)
    _, columns = np.unique(clusters, return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(rows))
    left, right = joint.sum(1), joint.sum(0)
    entropy = -(left * np.log(left)).sum() - (right * np.log(right)).sum()
    product = np.outer(left, right)
    shared = joint > 0
    information = (joint[shared] * np.log(joint[shared] / product[shared])).sum()
    return float(2 * information / entropy) if entropy else 1.0
