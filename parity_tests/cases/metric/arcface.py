import numpy as np

from parity_tests.cases.metric import CLASSES, loss, unlabelled


def partial(rng, batch):
    """Three of the four classes."""
    return {**unlabelled(rng, batch), "classes": np.array([0, 1, 3])}


CASES = [
    loss("arcface", targets=unlabelled, **CLASSES),
    loss("arcface", "monotone", targets=unlabelled, fallback="monotone", **CLASSES),
    loss("arcface", "straight_through", targets=unlabelled, grad="straight_through", filter_threshold=0.1, **CLASSES),
    loss("arcface", "partial", partial, {"classes": (None,)}, **CLASSES),
    loss("combined_margin", targets=unlabelled, margins=(1.2, 0.3, 0.1), **CLASSES),
]
