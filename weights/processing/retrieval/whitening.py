"""Whitening of descriptors: by principal components, or learned from pairs that belong together.

"Negative Evidences and Co-occurences in Image Retrieval: The Benefit of PCA and Whitening", ECCV 2012; "Fine-tuning CNN
Image Retrieval with No Human Annotation", 2017, arXiv:1711.02512, section 3.3. Numbers: filipradenovic/
cnnimageretrieval-pytorch ``cirtorch/utils/whiten.py`` (MIT), which holds descriptors as columns; here they are rows.
The signs of the directions are free.
"""

import numpy as np

__all__ = ["learn_pca_whitening", "learn_whitening", "whiten"]

EPS = 1e-6  # added to norms


def _descending(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and the eigenvectors as rows."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[::-1], vectors.T[::-1]


def learn_pca_whitening(descriptors: np.ndarray, shrink: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and projection to uncorrelated numbers of variance 1.

    Args:
        descriptors: (N, D), N at least D.
        shrink: added to every eigenvalue, as a share of the largest; it damps directions of little variance.

    Returns:
        mean: (D,).
        projection: (D, D), strongest direction first.

    Raises:
        ValueError: if the descriptors do not span D dimensions and ``shrink`` is 0.
    """
    mean = descriptors.mean(0)
    centred = descriptors - mean
    values, vectors = _descending(centred.T @ centred / len(centred))
    values = values + shrink * values[0]
    if values[-1] <= np.finfo(values.dtype).eps * values[0] * len(values):
        raise ValueError(f"descriptors: {descriptors.shape} fill less than {len(values)} dimensions; use shrink > 0")
    return mean, vectors / np.sqrt(values)[:, None]


def learn_whitening(descriptors: np.ndarray, queries, positives) -> tuple[np.ndarray, np.ndarray]:
    """Mean and projection in which pairs of one object differ by noise of variance 1, strongest direction first.

    Args:
        descriptors: (N, D).
        queries, positives: (P,) int, the rows of each pair.

    Returns:
        mean: (D,), of the queries.
        projection: (D, D).

    Raises:
        ValueError: if the differences of the pairs do not span D dimensions.
    """
    mean = descriptors[queries].mean(0)
    difference = descriptors[queries] - descriptors[positives]
    try:
        within = np.linalg.inv(np.linalg.cholesky(difference.T @ difference / len(difference)))
    except np.linalg.LinAlgError:
        size = descriptors.shape[1]
        raise ValueError(f"queries: {len(difference)} pairs do not differ in all {size} dimensions") from None
    moved = (descriptors - mean) @ within.T
    return mean, _descending(moved.T @ moved)[1] @ within


def whiten(descriptors: np.ndarray, mean: np.ndarray, projection: np.ndarray, size: int | None = None) -> np.ndarray:
    """Descriptors (N, D) projected on the first ``size`` directions and divided by their length plus 1e-6."""
    found = (descriptors - mean) @ projection[:size].T
    return found / (np.linalg.norm(found, axis=1, keepdims=True) + EPS)
