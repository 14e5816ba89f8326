"""Query expansion: query again with the mean of the first results; the same for the database.

"Total Recall: Automatic Query Expansion with a Generative Feature Model for Object Retrieval", ICCV 2007 (mean);
"Fine-tuning CNN Image Retrieval with No Human Annotation", 2017, arXiv:1711.02512 (weights sim ** alpha); database
augmentation: "Three things everyone should know to improve object retrieval", CVPR 2012.
"""

import numpy as np

from weights.processing.retrieval.index import nearest

__all__ = ["augment_database", "expand_queries"]


def _normalised(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def expand_queries(queries: np.ndarray, database: np.ndarray, count: int = 10, alpha: float = 3.0) -> np.ndarray:
    """Queries plus their nearest rows, weighted by cosine ** alpha.

    Args:
        queries: (Q, D) of unit length.
        database: (N, D) of unit length.
        count: how many rows are added.
        alpha: 0 for the mean; otherwise rows with negative cosines have weight 0.

    Returns:
        (Q, D) of unit length.
    """
    scores, rows = nearest(queries, database, count)
    weights = np.maximum(scores, 0) ** alpha if alpha else np.ones_like(scores)
    return _normalised(queries + np.einsum("qk,qkd->qd", weights, database[rows]))


def augment_database(database: np.ndarray, count: int = 10, alpha: float = 3.0) -> np.ndarray:
    """Every row (N, D) plus its nearest other rows, weighted by cosine ** alpha; (N, D) of unit length."""
    scores, rows = nearest(database, database, count + 1)
    weights = np.maximum(scores, 0) ** alpha if alpha else np.ones_like(scores)
    weights = np.where(rows == np.arange(len(database))[:, None], 0, weights)
    return _normalised(database + np.einsum("qk,qkd->qd", weights, database[rows]))
