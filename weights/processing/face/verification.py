"""Face verification: descriptions of a face and its mirror image, and the protocol of LFW.

"Labeled Faces in the Wild", 2008: a threshold is chosen on nine tenths of the pairs and judged on the last tenth.
"""

import numpy as np

__all__ = ["both_sides", "fold_accuracies", "pair_similarities"]


def both_sides(embeddings: np.ndarray, mirrored: np.ndarray, join: str = "sum") -> np.ndarray:
    """One description of unit length of a face and of its mirror image.

    Args:
        embeddings, mirrored: (N, D).
        join: "sum" (N, D), or "concat" (N, 2 D).

    Raises:
        ValueError: if ``join`` is unknown.
    """
    if join not in ("sum", "concat"):
        raise ValueError(f"join={join!r} must be 'sum' or 'concat'")
    found = embeddings + mirrored if join == "sum" else np.concatenate([embeddings, mirrored], 1)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def pair_similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of faces pair by pair, both (N, D) of unit length -> (N,)."""
    return (first * second).sum(1)


def fold_accuracies(similarities: np.ndarray, same: np.ndarray, folds: int = 10) -> np.ndarray:
    """Accuracy on every fold with the threshold that is best on the others.

    Args:
        similarities: (N,) of pairs, larger for the same person; folds are consecutive.
        same: (N,) bool.
        folds: how many.

    Returns:
        (folds,) in [0, 1].

    Raises:
        ValueError: if there are fewer pairs than folds, or fewer than two folds.
    """
    if not 2 <= folds <= len(same):
        raise ValueError(f"folds={folds} must be between 2 and the number of pairs, {len(same)}")
    parts = np.array_split(np.arange(len(same)), folds)
    found = []
    for part in parts:
        rest = np.setdiff1d(np.arange(len(same)), part)
        thresholds = np.append(np.unique(similarities[rest]), np.inf)
        right = (similarities[rest] >= thresholds[:, None]) == same[rest]
        best = thresholds[right.mean(1).argmax()]
        found.append(((similarities[part] >= best) == same[part]).mean())
    return np.array(found)
