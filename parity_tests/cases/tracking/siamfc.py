import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images
from weights.processing.tracking.targets import response_labels

SMALL = {"channels": (4, 6, 8, 8, 6)}


def pair(exemplar: int, height: int, width: int):
    def make(rng, batch):
        return {
            **images(exemplar, exemplar, name="exemplar")(rng, batch),
            **images(height, width, name="search")(rng, batch),
        }

    return make


def labels(height: int, width: int):
    return lambda rng, batch: {"labels": np.tile(response_labels(height, width), (batch, 1, 1, 1))}


def reference(version: int, height: int, width: int) -> Reference:
    return Reference(
        f"siamfc_pytorch_alexnet_v{version}",
        modules={"features_exemplar": "backbone#0", "features_search": "backbone#1"},
        outputs={"response": ""},
        inputs={"exemplar": "exemplar", "search": "search"},
        losses={"balanced": "balanced"},
        targets=lambda expected: labels(height, width)(None, 2),
    )


CASES = [
    Case(
        "siamfc_alexnet_v1",
        pair(95, 151, 159),
        labels(8, 9),
        SMALL,
        references=[reference(1, 15, 17)],
    ),
    Case(
        "siamfc_alexnet_v2",
        pair(71, 95, 87),
        labels(7, 5),
        {**SMALL, "out_scale": 0.01},
        references=[reference(2, 17, 21)],
        without=SAME_GRAPH,
    ),
    Case(
        "siamfc_alexnet_v3",
        pair(95, 127, 135),
        labels(5, 6),
        SMALL,
        references=[reference(3, 11, 13)],
    ),
]
