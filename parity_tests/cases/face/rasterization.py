import numpy as np

from parity_tests.cases.face.morphable import OCTAHEDRON
from parity_tests.harness.case import Case

CORNERS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


def scene(rng, batch):
    """An octahedron in the middle, that reaches over the upper border, and a triangle without an inside."""
    place = np.array([9.0, 5.0, 4.0]) + rng.uniform(-1, 1, (batch, 1, 3))
    vertices = place + np.array([7.0, 7.0, 1.5]) * (CORNERS + rng.uniform(-0.2, 0.2, (batch, 6, 3)))
    return {
        "vertices": vertices,
        "triangles": np.concatenate([OCTAHEDRON, [[1, 4, 4]]]),
        "attributes": rng.uniform(size=(batch, 6, 4)),
    }


WHOLE = {"triangles": (None, None)}

CASES = [
    Case("rasterize", scene, options={"size": (13, 17)}, dynamic=WHOLE),
    Case(
        "rasterize_soft",
        scene,
        options={"size": (13, 17), "near": 1.0, "far": 8.0, "sigma": 0.01, "gamma": 0.1},
        dynamic=WHOLE,
    ),
]
