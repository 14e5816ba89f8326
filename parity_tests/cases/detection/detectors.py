"""Small configurations of DetectoRS: the recursive pyramid and the switchable convolutions, alone and together."""

import dataclasses

from parity_tests.cases.detection import objects
from parity_tests.cases.detection._two_stage import FEW, SMALL, mmdet_outputs
from parity_tests.cases.detection.cascade_rcnn import STAGES
from parity_tests.harness.case import SAME_GRAPH, Case, images


def recursive(file: str):
    """The references of a recursive pyramid, whose backbone returns the image first."""
    (plain,) = mmdet_outputs(file, STAGES)
    modules = {key: path for key, path in plain.modules.items() if not key.startswith(("backbone", "neck"))}
    modules |= {f"backbone.{i}": f"backbone.layer{i}" for i in range(1, 5)} | {
        f"neck.{i}": f"neck@{i}" for i in range(5)
    }
    return [dataclasses.replace(plain, modules=modules)]


CASES = [
    Case(
        "cascade_rcnn_r50_rfp",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=recursive("cascade-rcnn_r50-rfp_1x_coco"),
        without=SAME_GRAPH,
    ),
    Case(
        "cascade_rcnn_r50_sac",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=mmdet_outputs("cascade-rcnn_r50-sac_1x_coco", STAGES),
        without={"results": SAME_GRAPH["results"]},
    ),
    Case(
        "detectors_cascade_rcnn_r50",
        images(97, 81),
        objects(97, 81, 4),
        SMALL,
        postprocess=FEW,
        references=recursive("detectors_cascade-rcnn_r50_1x_coco"),
        without=SAME_GRAPH,
    ),
]
