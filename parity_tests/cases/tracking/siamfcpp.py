import numpy as np

from parity_tests.cases.tracking._common import pair
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference

BOXES = np.array([[110.5, 95.25, 190.75, 160.0], [100.0, 130.0, 150.5, 215.25]])


def objects(height: int, width: int):
    """One box a frame; from a batch of two on, the last is another object's."""

    def make(rng, batch):
        corner = rng.uniform(0.35, 0.45, (batch, 2)) * [width, height]
        boxes = np.concatenate([corner, corner + rng.uniform(20, 60, (batch, 2))], 1)
        return {"boxes": boxes, "same": np.arange(batch) < max(1, batch - 1)}

    return make


def references(file: str) -> list[Reference]:
    track = fingerprints.inputs_of(fingerprints.load(file))["search_track"]
    trained = Reference(
        file,
        modules={"backbone_template": "basemodel#0", "c_z_k": "c_z_k", "r_z_k": "r_z_k"},
        outputs={name: name for name in ("cls_pred", "ctr_pred", "box_pred")},
        inputs={"template": "template", "search": "search"},
        losses={name: name for name in ("cls", "ctr", "reg")},
        targets=lambda expected: {"boxes": BOXES, "same": np.array([True, True])},
    )
    tracked = Reference(
        file,
        modules={"track_c_x": "c_x", "track_r_x": "r_x"},
        outputs={"track_box": "box_pred"},
        results={"track_score": "scores"},
        inputs={"template": "template", "search": "search"},
        given={"search": track},
    )
    return [trained, tracked]


CASES = [
    Case(
        "siamfcpp_alexnet",
        pair(111, 191, 207),
        objects(191, 207),
        {"channels": (4, 6, 8, 8, 6)},
        references=references("video_analyst_siamfcpp_alexnet"),
        without=SAME_GRAPH,
    ),
    Case(
        "siamfcpp_tinyconv",
        pair(79, 127, 143),
        objects(127, 143),
        {"width": 6, "norms": (False, True)},
        references=references("video_analyst_siamfcpp_tinyconv"),
    ),
]
