from parity_tests.cases.face.retinaface import RESULTS, faces
from parity_tests.harness.case import SAME_GRAPH, Case, images

MESH = {"levels": (0, 1), "width": 4, "size": (7, 9), "sigma": 0.05, "gamma": 0.1}


def codes(rng, batch):
    return {"codes": 0.3 * rng.standard_normal((batch, 144))}


CASES = [
    Case(
        "retinaface_dense_mobilenet025",
        images(97, 75),
        faces(97, 75),
        {"body_width": 4, "out_channels": 8, **MESH},
        postprocess=RESULTS,
        without={"reference": "there is no code of this branch; the others are compared without it"},
    ),
    Case(
        "retinaface_dense_resnet50",
        images(65, 91),
        faces(65, 91),
        {"layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10), "out_channels": 68, **MESH},
        postprocess=RESULTS,
        without={"reference": "there is no code of this branch", **SAME_GRAPH},
    ),
    Case(
        "retinaface_dense_face",
        codes,
        options=MESH,
        without={"reference": "there is no code of this branch"},
    ),
]
