"""pix2pixHD's generators of published size that have no other case: with features of instances, and of two scales."""

from dataclasses import replace

from parity_tests.cases.gan.pix2pix import pictures
from parity_tests.cases.gan.pix2pixhd import CASES as SMALL_CASES
from parity_tests.cases.gan.pix2pixhd import SMALL, generator
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

(LOCAL,) = (case for case in SMALL_CASES if case.model == "pix2pixhd_local")
PUBLISHED = generator("pix2pixhd_local", "pix2pixhd_local", 6, {}, {}, "model1_2.7").references

CASES = [
    Case(
        "pix2pixhd_global_features",
        images(32, 48, 9, "maps"),
        pictures("B", height=32, width=48),
        {**SMALL, "in_chans": 9},
        references=[
            Reference(
                "pix2pixhd_global_39ch",
                modules={"before_tanh": "model.38"},
                outputs={"output": ""},
                inputs={"input": "maps"},
            )
        ],
        without=SAME_GRAPH,
    ),
    replace(LOCAL, variant="published", references=PUBLISHED, without=SAME_GRAPH),
]
