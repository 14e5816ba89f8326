"""Images of a few persons for re-identification, and what the stored losses were computed with."""

import numpy as np

from parity_tests.harness.case import images

__all__ = ["CLASSES", "SMALL", "centers", "identities", "persons", "stored_labels"]

SMALL = {"block": "basic", "layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10)}
CLASSES = 5


def persons(rng, batch):
    return images(69, 37)(rng, 4 * batch)


def identities(rng, batch):
    """Two images of every person; more persons than classes share one."""
    return {"labels": rng.permutation(np.arange(4 * batch) // 2 % CLASSES)}


def stored_labels(expected):
    return {"labels": np.asarray(expected["inputs"]["labels"]["data"], np.int64)}


def centers(weights):
    """The seeded weights, with the centres that come after the image from one generator."""
    rng = np.random.default_rng(0)
    rng.standard_normal((4, 3, 128, 64))
    return {**weights, "criterion.center.centers": rng.standard_normal((8, 2048)).astype(np.float32)}
