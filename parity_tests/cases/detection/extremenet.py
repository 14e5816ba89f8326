"""A small configuration of ExtremeNet."""

import numpy as np

from parity_tests.cases.detection import objects, stored_objects
from parity_tests.cases.detection._darknet import scaled_image
from parity_tests.cases.detection._hourglass import SMALL
from parity_tests.harness.case import Case, Reference, images

FILE = "extremenet_hourglass104"
MAPS = [f"{side}_heat" for side in ("t", "l", "b", "r", "ct")] + [f"{side}_regr" for side in ("t", "l", "b", "r")]
SHARES = np.array([[0.4, 0.0], [0.0, 0.55], [0.6, 1.0], [1.0, 0.45]])  # where on a box the points are


def with_extremes(targets):
    """Extreme points at fixed shares of every box's sides."""
    corner, size = (
        targets["boxes"][..., None, :2],
        np.diff(targets["boxes"].reshape(*targets["labels"].shape, 2, 2), 1, 2),
    )
    return {"boxes": targets["boxes"], "extremes": corner + SHARES * size, **targets}


CASES = [
    Case(
        FILE,
        images(63, 95),
        lambda rng, batch: with_extremes(objects(63, 95, 3)(rng, batch)),
        SMALL,
        postprocess={"points": 5, "candidates": 30, "detections": 6},
        references=[
            Reference(
                FILE,
                modules={"pre": "pre"}
                | {f"stack{i}.kp": f"kps.{i}" for i in (0, 1)}
                | {f"stack{i}.cnv": f"cnvs.{i}" for i in (0, 1)},
                outputs={f"stack{i}.{key}": key + s for i, s in enumerate(("_0", "")) for key in MAPS},
                inputs={"image": "images"},
                given={"images": scaled_image(FILE, 1)},
                losses={key: key for key in ("focal", "regr")},
                targets=lambda expected: with_extremes(stored_objects(expected)),
            )
        ],
    )
]
