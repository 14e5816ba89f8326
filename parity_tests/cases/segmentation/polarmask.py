"""Small configurations of PolarMask."""

import numpy as np

from parity_tests.cases.detection._mmdet import FEW, SMALL
from parity_tests.cases.segmentation._instances import ellipses, instances
from parity_tests.harness.case import Case, Reference, images
from weights.processing.segmentation.polarmask import polar_targets

STRIDES = (8, 16, 32, 64, 128)
SCENE = (  # of the fingerprint: boxes and labels of both images
    (((10, 12, 62, 80), (50, 8, 118, 46), (30, 44, 52, 70)), (3, 0, 41)),
    (((5, 20, 44, 90), (40, 10, 124, 66), (70, 50, 102, 94)), (15, 3, 7)),
)


def polar(scene, height: int, width: int):
    """The targets of images, each of boxes, labels and masks."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    found = [polar_targets(*objects, sizes) for objects in scene]
    return {key: np.stack([targets[key] for targets in found]) for key in found[0]}


def outlined(height: int, width: int, classes: int):
    """Target maker: ellipses in boxes."""
    make_instances = instances(height, width, classes)

    def make(rng, batch):
        made = make_instances(rng, batch)
        seen = [valid & masks.any((1, 2)) for valid, masks in zip(made["valid"], made["masks"])]
        scene = [[made[key][i][rows] for key in ("boxes", "labels", "masks")] for i, rows in enumerate(seen)]
        return polar(scene, height, width)

    return make


def scene_targets(expected):
    """The targets of the fingerprint."""
    scene = [(np.array(boxes, float), labels, ellipses(np.array(boxes, float), 96, 128)) for boxes, labels in SCENE]
    return polar(scene, 96, 128)


CASES = [
    Case(
        "polarmask_r50",
        images(65, 97),
        outlined(65, 97, 4),
        {**SMALL, "norm_groups": 4},
        postprocess={**FEW, "detections": 10},
        references=[
            Reference(
                "polarmask_r50",
                modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
                | {f"fpn.{i}": f"neck.fpn_convs.{i}" for i in range(5)},
                outputs={
                    f"{theirs}.{i}": f"{ours}_p{i + 3}"
                    for theirs, ours in (("cls", "cls"), ("bbox", "reg"), ("centerness", "ctr"), ("mask", "rays"))
                    for i in range(5)
                },
                inputs={"image": "images"},
                losses={key: key for key in ("loss_cls", "loss_bbox", "loss_mask", "loss_centerness")},
                targets=scene_targets,
            )
        ],
    ),
]
