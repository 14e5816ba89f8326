from parity_tests.cases.face.retinaface import RESULTS, faces
from parity_tests.harness.case import Case, images

CASES = [
    Case(
        "retinaface_resnet152_p2p6",
        images(97, 75),
        faces(97, 75),
        {"layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10), "out_channels": 8},
        postprocess=RESULTS,
        without={"reference": "no public code has the paper's layout"},
    )
]
