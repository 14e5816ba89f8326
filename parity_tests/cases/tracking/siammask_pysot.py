"""SiamMask under the names of pysot, which has no loss of the masks."""

from dataclasses import replace

import numpy as np

from parity_tests.cases.gan._common import filled_by_other_names
from parity_tests.cases.tracking._common import reference, stored_labels
from parity_tests.cases.tracking.siammask import CASES as SIAMMASK

SMALL = dict.fromkeys(
    ("initial", "outputs", "losses", "gradients", "training", "onnx", "results"),
    "measured as the case without this variant",
)
FILE = "pysot_siammask_r50_l3"
PYSOT = {
    r"^backbone\.": "features.features.",
    r"^neck\.": "features.",
    r"^rpn_head\.": "rpn_model.",
    r"^mask_head\.": "mask_model.mask.",
    r"^refine_head\.": "refine_model.",
}
MAPS = {"template_features": "features#0@4"} | {f"backbone_search.{i}": f"features#1@{i}" for i in range(4)}


def targets(expected):
    """Labels of the anchors; no cell counts for the masks."""
    batch, _, height, width = expected["inputs"]["search"]["shape"]
    cells = expected["outputs"]["cls"]["shape"][2:]
    masks = {"label_mask": np.ones((batch, 1, height, width)), "label_mask_weight": np.zeros((batch, *cells))}
    return {**stored_labels(expected), **masks}


REFERENCE = reference(FILE, MAPS)
REFERENCE = replace(
    REFERENCE,
    outputs={**REFERENCE.outputs, "mask": "mask"},
    targets=targets,
    rename=PYSOT,
    weights=filled_by_other_names(FILE, PYSOT),
)

CASES = [
    replace(case, variant="pysot", references=[REFERENCE], without=SMALL)
    for case in SIAMMASK
    if case.model == "siammask_sharp"
]
