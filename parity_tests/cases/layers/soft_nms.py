"""Cases of soft suppression: overlapping boxes of several classes with tied scores, some of which take no part."""

from parity_tests.cases.layers.operators import NO_GRADIENT, labelled_boxes
from parity_tests.harness.case import Case


def operator(method: str, variant: str = "", **options) -> Case:
    options = {"max_outputs": 10, "method": method, **options}
    return Case("soft_nms", labelled_boxes, options=options, variant=variant, without=NO_GRADIENT)


CASES = [
    operator("gaussian"),
    operator("linear", "linear", offset=1.0),
    operator("naive", "naive", min_score=0.2),
]
