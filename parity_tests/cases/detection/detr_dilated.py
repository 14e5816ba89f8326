"""Small configurations of DETR on a dilated residual network, and on the one with 101 layers."""

from parity_tests.cases.detection.detr import SMALL, matched, padded_images, reference
from parity_tests.harness.case import SAME_GRAPH, Case


def small(model: str, file: str) -> Case:
    return Case(
        model,
        padded_images(97, 129),
        matched(97, 129, 4, 2, 10),
        SMALL,
        references=[reference(file)],
        without=SAME_GRAPH,
    )


CASES = [small("detr_resnet50_dc5", "detr_r50_dc5"), small("detr_resnet101", "detr_r101")]
