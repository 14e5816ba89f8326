"""Pairs of a template and a frame, and labels of the anchors of pysot's trackers."""

import numpy as np

from parity_tests.harness.case import Reference, images

__all__ = ["labels", "pair", "reference", "stored_labels"]


def pair(template: int, height: int, width: int):
    def make(rng, batch):
        return {
            **images(template, template, name="template")(rng, batch),
            **images(height, width, name="search")(rng, batch),
        }

    return make


def labels(height: int, width: int):
    """Anchors of all three kinds; those with the object have a weight."""

    def make(rng, batch):
        found = rng.integers(-1, 2, (batch, 5, height, width))
        return {
            "label_cls": found,
            "label_loc": rng.standard_normal((batch, 4, 5, height, width)),
            "label_loc_weight": (found == 1) / np.maximum((found == 1).sum((1, 2, 3), keepdims=True), 1),
        }

    return make


def stored_labels(expected):
    batch, _, height, width = expected["outputs"]["cls"]["shape"]
    i = np.indices((batch, 5, height, width))
    s = (5 * i[0] + i[1] + 2 * i[2] + 3 * i[3]) % 7
    found = np.where(s == 0, 1, np.where(s <= 2, 0, -1))
    j = np.indices((batch, 4, 5, height, width))
    return {
        "label_cls": found,
        "label_loc": ((j[0] + 3 * j[1] + 2 * j[2] + 5 * j[3] + 7 * j[4]) % 11 - 5) / 5,
        "label_loc_weight": (found == 1) / (found == 1).sum((1, 2, 3), keepdims=True),
    }


def reference(file: str, modules, options=None) -> Reference:
    return Reference(
        file,
        options or {},
        modules=modules,
        outputs={"cls": "cls", "loc": "loc"},
        inputs={"template": "template", "search": "search"},
        losses={"cls_loss": "cls", "loc_loss": "loc"},
        targets=stored_labels,
    )
