"""Small configurations of YOLACT."""

import numpy as np

from parity_tests.cases.detection import padded
from parity_tests.cases.gan._common import filled_by_other_names
from parity_tests.cases.segmentation._instances import ellipses, instances
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 8, 16, 16),
    "num_classes": 3,
    "out_channels": 16,
    "prototypes": 4,
}
PRIORS = {"scales": (12, 24, 48, 64, 90), "max_size": 96}
# an object inside of several priors of one cell, which are as large as each other, overlaps all of them by the same
SMALL_PRIORS = {**PRIORS, "scales": (6, 10, 16, 22, 30)}
DARKNET = {r"^backbone\._preconv": "backbone.preconv"}  # names of the reference
SCENE = (  # of the fingerprints: boxes in shares of the image, and labels, of both images
    (((0.1, 0.15, 0.62, 0.8), (0.45, 0.05, 0.95, 0.5), (0.3, 0.55, 0.5, 0.78)), (3, 0, 41)),
    (((0.05, 0.3, 0.4, 0.95), (0.35, 0.1, 0.98, 0.7), (0.6, 0.55, 0.88, 0.97)), (15, 3, 7)),
)


def crowded(height: int, width: int, classes: int, most: int = 5):
    """Target maker: ellipses in boxes; the last object of the first image is a crowd."""
    make_instances = instances(height, width, classes, most)

    def make(rng, batch):
        targets = make_instances(rng, batch)
        crowd = np.zeros_like(targets["valid"])
        crowd[0, np.flatnonzero(targets["valid"][0])[-1:]] = True
        return {**targets, "crowd": crowd}

    return make


def scene_targets(expected):
    """The targets of a fingerprint."""
    height, width = expected["inputs"]["image"]["shape"][2:]
    classes = expected["outputs"]["segm"]["shape"][1]
    size = np.array([width, height, width, height])
    targets = padded([(np.array(boxes) * size, np.array(labels) % classes) for boxes, labels in SCENE])
    masks = ellipses(targets["boxes"], height, width)
    return {"masks": masks, "crowd": np.zeros_like(targets["valid"]), **targets}


def yolact(file: str, stages: int = 4, **options) -> Reference:
    """The reference's maps, outputs, losses and gradients."""
    return Reference(
        file,
        modules={f"backbone.{i}": f"backbone.layers.{i}" for i in range(stages)}
        | {f"fpn.{i}": f"fpn@{i}" for i in range(5)},
        outputs={key: key for key in ("loc", "conf", "mask", "proto", "segm")},
        inputs={"image": "images"},
        **{"losses": {key: key for key in "BMCS"}, "targets": scene_targets, **options},
    )


CASES = [
    Case(
        "yolact_resnet50",
        images(96, 90),
        crowded(96, 90, 3),
        SMALL,
        criterion={**PRIORS, "max_masks": 12},
        postprocess={**PRIORS, "candidates": 40, "detections": 10},
        references=[yolact("yolact_resnet50")],
    ),
    Case(
        "yolact_resnet50_pascal",
        images(96, 90),
        crowded(96, 90, 3),
        SMALL,
        criterion={**SMALL_PRIORS, "max_masks": 12},
        postprocess={**SMALL_PRIORS, "candidates": 40, "detections": 10},
        references=[yolact("yolact_resnet50_pascal")],
    ),
    Case(
        "yolact_darknet53",
        images(96, 90),
        crowded(96, 90, 3),
        {"depths": (1,) * 5, "widths": (8, 8, 12, 16, 16, 20), "num_classes": 3, "out_channels": 16, "prototypes": 4},
        criterion={**PRIORS, "max_masks": 12},
        postprocess={**PRIORS, "candidates": 40, "detections": 10},
        references=[
            yolact(
                "yolact_darknet53",
                stages=5,
                rename=DARKNET,
                weights=filled_by_other_names("yolact_darknet53", DARKNET),
                bound=1e-3,
                reason="masks of these weights saturate, where a rounding of the probability moves its logarithm from "
                "-16.6 to -100: 5e-4 in the loss of the masks, 3e-6 elsewhere",
            ),
        ],
        without=SAME_GRAPH,
    ),
]
