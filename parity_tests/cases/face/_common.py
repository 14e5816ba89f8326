"""Labels of persons."""

import numpy as np

__all__ = ["identities", "stored_labels"]


def identities(rng, batch):
    """Persons; from a batch of three on, the last row belongs to none."""
    labels = rng.integers(0, 5, batch)
    if batch > 2:
        labels[-1] = -1
    return {"labels": labels}


def stored_labels(expected):
    return {"labels": np.asarray(expected["inputs"]["labels"]["data"], np.int64)}
