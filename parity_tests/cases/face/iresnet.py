import numpy as np

from parity_tests.cases.face._common import identities, stored_labels
from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

SMALL = {"planes": (8, 12, 16, 20), "num_features": 10, "size": 37}


def class_weight(weights):
    """The seeded weights, with those of the classes, which come after the image from one generator."""
    rng = np.random.default_rng(0)
    rng.standard_normal((2, 3, 112, 112))
    return {**weights, "criterion.weight": rng.standard_normal((4, 512)).astype(np.float32)}


def reference(file: str) -> Reference:
    return Reference(
        file,
        modules={f"layer{i}": f"layer{i}" for i in (1, 2, 3, 4)},
        outputs={"embedding": ""},
        given={"images": 0.1 * fingerprints.inputs_of(fingerprints.load(file))["image"]},
        losses={"arcface_exact": "arcface"},
        targets=stored_labels,
        criterion={"num_classes": 4},
        weights=class_weight,
    )


def case(model: str, file: str = "", **others) -> Case:
    return Case(
        model,
        images(37, 37),
        identities,
        {**SMALL, **others.pop("options", {})},
        {"num_classes": 5, "embedding_size": 10},
        references=[reference(file)] if file else [],
        **others,
    )


CASES = [
    case("iresnet18", "insightface_iresnet18"),
    case("iresnet50", "insightface_iresnet50", options={"layers": (1, 2, 1, 1)}, without=SAME_GRAPH),
]
