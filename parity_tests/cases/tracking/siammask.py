from dataclasses import replace

import numpy as np

from parity_tests.cases.tracking._common import labels, pair, reference, stored_labels
from parity_tests.harness.case import Case

SMALL = {"layers": (1, 1, 2), "planes": (4, 6, 8), "channels": 6}


def masks(height: int, width: int, rows: int, columns: int):
    """Labels of the anchors, and a random mask; half of the cells count."""

    def make(rng, batch):
        return {
            **labels(rows, columns)(rng, batch),
            "label_mask": np.sign(rng.standard_normal((batch, 1, height, width))),
            "label_mask_weight": rng.integers(0, 2, (batch, rows, columns)).astype(float),
        }

    return make


def stored_masks(every: int, rest: int):
    def make(expected):
        batch, _, height, width = expected["inputs"]["search"]["shape"]
        y, x = np.mgrid[:height, :width]
        mask = np.where(((y - 80) / 50) ** 2 + ((x - 100) / 40) ** 2 < 1, 1.0, -1.0)
        b, row, column = np.indices((batch, *expected["outputs"]["cls"]["shape"][2:]))
        weight = (7 * b + column.shape[2] * row + column) % every == rest
        return {
            **stored_labels(expected),
            "label_mask": np.tile(mask, (batch, 1, 1, 1)),
            "label_mask_weight": weight.astype(float),
        }

    return make


def stored(file: str, modules, outputs, targets):
    found = reference(file, modules)
    return replace(
        found, outputs={**found.outputs, **outputs}, losses={**found.losses, "mask_loss": "mask"}, targets=targets
    )


FEATURES = {"template_features": "features#0@4", "search_features": "features#1@4"}

CASES = [
    Case(
        "siammask_base",
        pair(127, 71, 167),
        masks(71, 167, 2, 14),
        SMALL,
        references=[stored("siammask_base", FEATURES, {"mask": "mask"}, stored_masks(61, 7))],
    ),
    Case(
        "siammask_sharp",
        pair(127, 135, 143),
        masks(135, 143, 2, 3),
        SMALL,
        references=[
            stored(
                "siammask_sharp",
                {
                    **FEATURES,
                    **{f"features.{i}": f"features#1@{i}" for i in range(4)},
                    "refine": "refine_model",
                },
                {},
                stored_masks(3, 1),
            )
        ],
    ),
]
