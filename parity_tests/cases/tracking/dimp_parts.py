"""Small configurations of DiMP's parts."""

import numpy as np

from parity_tests.cases.tracking.halves import maps
from parity_tests.harness.case import Case, images

SMALL = {"layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10), "channels": 6, "width": 8, "num_classes": 3}
WHOLE = {"reference": "the whole network has its own"}


def with_boxes(height: int, width: int, count: int | None = None, **sizes):
    """Input maker of maps, and of boxes xywh in and around an image."""
    make_maps = maps(**sizes)

    def make(rng, batch):
        shape = (batch, 4) if count is None else (batch, count, 4)
        boxes = rng.uniform(0.1, 0.7, shape) * np.tile([width, height], 2)
        return {**make_maps(rng, batch), "boxes": boxes}

    return make


CASES = [
    Case("dimp18_extract", images(48, 80), options=SMALL, without=WHOLE),
    Case("dimp18_filter", with_boxes(64, 80, classification=(6, 4, 5)), options={"channels": 6}, without=WHOLE),
    Case(
        "dimp18_modulation",
        with_boxes(64, 80, fine=(6, 8, 10), coarse=(8, 4, 5)),
        options={"planes": SMALL["planes"], "width": 8},
        without=WHOLE,
    ),
    Case(
        "dimp_overlaps",
        with_boxes(64, 80, 3, third=(8, 8, 10), fourth=(8, 4, 5), of_third=(8, 1, 1), of_fourth=(8, 1, 1)),
        options={"width": 8},
        without=WHOLE,
    ),
]
