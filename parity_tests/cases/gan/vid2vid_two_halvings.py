"""vid2vid's generator of full width with two halvings, as the reference has it for small frames."""

from dataclasses import replace

from parity_tests.cases.gan.vid2vid import CASES as SMALL_CASES
from parity_tests.harness.case import GRADIENT_NORMS, SAME_GRAPH, Case


def of_full_width(case: Case) -> Case:
    """The same case against the numbers of the wider generator."""
    (narrow,) = case.references
    wide = replace(
        narrow,
        file="vid2vid_composite_ngf128_down2",
        options={"width": 128, "downs": 2},
        gradient_bound=GRADIENT_NORMS,
        reason="a flow moves noise, and rounding decides between which pixels it ends: in float32 the image of one "
        "panel is 8.7e-5 from the file's",
    )
    return replace(case, variant="two_halvings", references=[wide], without=SAME_GRAPH)


CASES = [of_full_width(case) for case in SMALL_CASES if case.model == "vid2vid_composite"]
