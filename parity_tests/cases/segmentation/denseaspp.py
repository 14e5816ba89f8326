"""Cases of DenseASPP."""

from parity_tests.cases.segmentation import grid_labels, label_maps
from parity_tests.harness.case import Case, Reference, images

SMALL = {"growth": 4, "initial": 8, "layers": (1, 1, 1, 1), "d0": 8, "d1": 4, "num_classes": 4, "dropout": 0.0}


def dense(model: str, file: str) -> Case:
    reference = Reference(
        file,
        {"dropout": 0.0},
        modules={name: name for name in ("features.denseblock2", "features.norm5", "ASPP_3", "ASPP_12", "ASPP_24")},
        outputs={"out": "logits"},
        inputs={"image": "images"},
        losses={"ce": "ce"},
        targets=grid_labels,
    )
    return Case(model, images(64, 80), label_maps(64, 80, 4), SMALL, references=[reference])


CASES = [
    dense("denseaspp_densenet121", "denseaspp_densenet121"),
    Case(
        "denseaspp_densenet161",
        images(64, 80),
        label_maps(64, 80, 4),
        {**SMALL, "output_stride": 16},
        references=dense("denseaspp_densenet161", "denseaspp_densenet161").references,
    ),
]
