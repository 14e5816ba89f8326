import numpy as np

from parity_tests.cases.detection import objects
from parity_tests.harness.case import Case, images

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (4, 6, 8, 10),
    "channels": 8,
    "units": 12,
    "groups_of_norm": 2,
    "candidates": (30, 20),
    "proposals": (20, 10),
    "samples": 12,
}


def frames(height: int, width: int):
    def make(rng, batch):
        size = rng.uniform(20, 40, (batch, 2))
        corner = rng.uniform(0, 20, (batch, 2))
        active = rng.uniform(0, 30, (batch, 3, 4))
        active[..., 2:] += active[..., :2] + 5
        active[:, -1] = 0
        return {
            **images(64, 96, name="template")(rng, batch),
            "template_box": np.concatenate([corner, corner + size], 1),
            **images(height, width)(rng, batch),
            "active": active,
        }

    return make


def targets(height: int, width: int):
    def make(rng, batch):
        found = objects(height, width, 1)(rng, batch)
        hard = (batch, 3)  # of each kind one, and one that does not count
        return {
            "boxes": found["boxes"],
            "valid": found["valid"],
            "hard_features": rng.standard_normal((*hard, 3, 8, 7, 7)),
            "hard_overlaps": rng.uniform(0.4, 0.8, (*hard, 3)),
            "hard_negative": np.tile([True, False, False], (batch, 1)),
            "hard_valid": np.tile([True, True, False], (batch, 1)),
        }

    return make


def pairs(rng, batch):
    """Boxes of two frames, the first of which are close to each other."""
    before = 20 + rng.uniform(0, 30, (batch, 4))
    before[:, 2:] += before[:, :2]
    now = np.concatenate([before[:1] + rng.uniform(-2, 2, (1, 4)), before + 20])
    return {
        "references": rng.standard_normal((batch, 8, 7, 7)),
        "features": rng.standard_normal((batch + 1, 8, 7, 7)),
        "reference_boxes": before,
        "boxes": now,
        "image_size": np.array([96, 128]),
    }


CASES = [
    Case(
        "siamrcnn_r50",
        frames(96, 64),
        targets(96, 64),
        SMALL,
        postprocess={"candidates": 20, "detections": 6},
        bounds={"onnx": (5e-5, "each stage refines the boxes of the one before, whose rounding moves what it sees")},
    ),
    Case(
        "siamrcnn_similarity",
        pairs,
        options={"channels": 8, "units": 12, "groups_of_norm": 2},
        dynamic={
            **dict.fromkeys(("references", "reference_boxes"), ("R",)),
            **dict.fromkeys(("features", "boxes"), ("D",)),
            "image_size": (None,),
        },
    ),
]
