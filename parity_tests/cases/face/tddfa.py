import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

STAGES = {name: name for name in ("dw2_2", "dw3_2", "dw4_2", "dw6")}


def numbers(key):
    return lambda rng, batch: {key: rng.standard_normal((batch, 62))}


def wanted(rng, batch):
    return {"wanted": rng.standard_normal((batch, 62)), "vertices": np.array([3, 0, 11, 7, 3])}


def reference(file: str) -> Reference:
    return Reference(
        file,
        modules=STAGES,
        outputs={"parameters": ""},
        inputs={"image": "images"},
        losses={"mse": "mse"},
        targets=lambda expected: {"wanted": np.array(expected["inputs"]["target"]["data"]).reshape(-1, 62)},
    )


def case(model: str, file: str = "", **others) -> Case:
    return Case(model, images(53, 41), numbers("wanted"), references=[reference(file)] if file else [], **others)


CASES = [
    case("tddfa_mobilenet_025", "3ddfa_mobilenet_025"),
    case("tddfa_mobilenet_1", "3ddfa_mobilenet_1", options={"width": 0.125}, without=SAME_GRAPH),
    Case("tddfa_wpdc", numbers("parameters"), wanted, {"num_vertices": 12}, dynamic={"vertices": (None,)}),
    Case("tddfa_vdc", numbers("parameters"), wanted, {"num_vertices": 12}, dynamic={"vertices": (None,)}),
]
