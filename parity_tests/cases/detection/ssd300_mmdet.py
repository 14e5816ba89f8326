"""A small configuration of SSD300 in front of mmdet's numbers."""

import re

from parity_tests.cases.detection import objects
from parity_tests.cases.detection.ssd import EXTRAS, FEW, MMDET, WIDTHS
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images
from weights.seeded import seeded

FILE = "ssd300_coco"


def mmdet_weights(values):
    """The rule of the seeded weights goes by mmdet's names."""
    for name, value in seeded({name: tuple(shape) for name, shape in fingerprints.load(FILE)["tensors"]}).items():
        for pattern, replacement in MMDET.items():
            name = re.sub(pattern, replacement, name)
        values[name] = value
    return values


CASES = [
    Case(
        "ssd300_vgg16",
        images(300, 284),
        objects(300, 284, 5, first=1),
        {**WIDTHS, "extras": EXTRAS},
        postprocess=FEW,
        variant="mmdet",
        without=SAME_GRAPH,
        references=[
            Reference(
                FILE,
                options={"num_classes": 81},
                modules={f"neck.{i}": f"backbone.extra.{i - 1}" for i in range(1, 6)}
                | {f"bbox_head.0.{i}": f"head.classification_head.module_list.{i}" for i in range(6)}
                | {f"bbox_head.1.{i}": f"head.regression_head.module_list.{i}" for i in range(6)},
                inputs={"input": "images"},
                rename=MMDET,
                weights=mmdet_weights,
            )
        ],
    ),
]
