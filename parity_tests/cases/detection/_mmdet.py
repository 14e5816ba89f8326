"""Small configurations and references that mmdet's one-stage detectors share."""

import numpy as np

from parity_tests.cases.detection import padded
from parity_tests.harness.case import Reference

SMALL = {
    "layers": (1, 1, 1, 1),
    "planes": (8, 8, 16, 16),
    "num_classes": 4,
    "out_channels": 16,
    "num_convs": 1,
}
FEW = {"candidates": 50, "detections": 20}


def mmdet(file: str, keys: tuple[str, ...], losses: dict[str, str], **options) -> Reference:
    """mmdet's maps, outputs, losses and gradients.

    Args:
        file: the fingerprint.
        keys: what the head's outputs are called here, in its order.
        losses: term of the file -> key of the criterion; a term ends with "." where the file lists it by level.
        options: of :class:`Reference`.
    """
    terms = {}
    for theirs, ours in losses.items():
        terms |= {f"{theirs}{i}": ours for i in range(5)} if theirs.endswith(".") else {theirs: ours}
    return Reference(
        file,
        modules={f"backbone.{i}": f"backbone.layer{i + 1}" for i in range(4)}
        | {f"neck.{i}": f"neck.fpn_convs.{i}" for i in range(5)},
        outputs={f"bbox_head.{k}.{i}": f"{key}_p{i + 3}" for k, key in enumerate(keys) for i in range(5)},
        inputs={"input": "images"},
        losses=terms,
        targets=losses_objects,
        **options,
    )


def losses_objects(expected):
    """The targets of a fingerprint's losses as padded rows."""
    found = expected["loss"]["targets"]
    return padded([(np.asarray(b), np.asarray(k)) for b, k in zip(found["boxes"], found["labels"])])
