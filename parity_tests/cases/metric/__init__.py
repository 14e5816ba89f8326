"""Embeddings and labels for the losses of metric learning."""

from collections.abc import Mapping

import numpy as np

from parity_tests.harness.case import Case

__all__ = ["CLASSES", "SIZE", "embeddings", "labels", "loss", "unlabelled"]

ROWS = 4  # of embeddings for every sample of a batch
SIZE = 6
CLASSES = {"num_classes": 4, "embedding_size": SIZE}


def embeddings(rng, batch):
    return {"embeddings": rng.standard_normal((ROWS * batch, SIZE))}


def labels(rng, batch):
    """Pairs of rows of one class, in random order; one row is alone in its class."""
    found = rng.permutation(np.arange(ROWS * batch) // 2 % 3)
    found[-1] = 3
    return {"labels": found}


def unlabelled(rng, batch):
    """Classes, and one row without any."""
    found = rng.integers(0, 4, ROWS * batch)
    found[1] = -1
    return {"labels": found}


def loss(model: str, variant: str = "", targets=labels, dynamic: Mapping | None = None, **options) -> Case:
    return Case(model, embeddings, targets, options=options, variant=variant, dynamic=dynamic or {})
