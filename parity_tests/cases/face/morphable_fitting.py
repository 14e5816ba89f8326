import numpy as np

from parity_tests.cases.face.morphable import SIZES, VERTICES, face, points
from parity_tests.harness.case import Case

SIZE = (11, 14)


def photograph(rng, batch):
    return {
        **points(rng, batch),
        "image": rng.uniform(size=(batch, 3, *SIZE)),
        "seen": rng.integers(0, 2, (batch, *SIZE)).astype(float),
        "skin": np.array([1.0, 1, 0, 1, 0, 1]),
    }


CASES = [
    Case(
        "morphable_renderer",
        face,
        photograph,
        {"num_vertices": VERTICES, "sizes": SIZES, "landmarks": (4, 0, 2), "size": SIZE},
        dynamic={
            **dict.fromkeys(("triangles", "around"), (None, None)),
            **dict.fromkeys(("share", "skin"), (None,)),
        },
        without={"reference": "the reference's rasteriser needs a graphics card; the face itself has its tests"},
    )
]
