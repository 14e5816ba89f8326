"""A small configuration of CenterNet with bottleneck blocks."""

from parity_tests.cases.detection import objects
from parity_tests.cases.detection.centernet import FEW, SMALL, TRUNK, reference
from parity_tests.harness.case import SAME_GRAPH, Case, images

CASES = [
    Case(
        "centernet_resdcn101",
        images(64, 96),
        objects(64, 96, 4),
        {**SMALL, "widths": (8, 6, 6)},
        postprocess=FEW,
        without=SAME_GRAPH,
        references=[
            reference(
                "centernet_resdcn101",
                0.5,
                TRUNK | {f"deconv_layers.{i}": f"deconv_layers.{i}" for i in (0, 3, 6, 9, 12, 15)},
                3e-3,
            )
        ],
    ),
]
