import numpy as np

from parity_tests.harness.case import Case
from weights.processing.face.morphable import triangles_around

VERTICES, SIZES = 6, (5, 3, 4)
OCTAHEDRON = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])


def face(rng, batch):
    return {
        "coefficients": 0.3 * rng.standard_normal((batch, sum(SIZES) + 33)),
        "triangles": OCTAHEDRON,
        "around": triangles_around(OCTAHEDRON[:7], VERTICES),
    }


def points(rng, batch):
    return {"points": rng.uniform(0, 224, (batch, 3, 2)), "share": np.array([1.0, 20, 1])}


CASES = [
    Case(
        "morphable_face",
        face,
        points,
        {"num_vertices": VERTICES, "sizes": SIZES, "landmarks": (4, 0, 2)},
        dynamic={"triangles": (None, None), "around": (None, None), "share": (None,)},
    )
]
