import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import SAME_GRAPH, Case, Reference, images

FILE = "pytorch_stacked_hourglass_2"
SMALL = {"inp_dim": 12, "oup_dim": 4, "stem": (4, 8)}


def stored_maps(expected):
    """A Gaussian for joint j of image b around (3 + 2 j + 5 b, 5 + j)."""
    image, joint = np.arange(2)[:, None, None, None], np.arange(16)[:, None, None]
    y, x = np.arange(32)[:, None], np.arange(48)
    return {"joints": np.exp(-((x - (3 + 2 * joint + 5 * image)) ** 2 + (y - (5 + joint)) ** 2) / 2)}


def maps(height, width):
    return lambda rng, batch: {"joints": rng.uniform(0, 1, (batch, 4, height // 4, width // 4))}


CASES = [
    Case(
        "hourglass_2",
        images(64, 128),
        maps(64, 128),
        {**SMALL, "increase": 2, "depth": 3},
        learning_rate=2.0**-14,  # the seeded network's maps are in the hundreds
        references=[
            Reference(
                FILE,
                modules={"pre": "pre", "hg0": "hgs.0", "feature1": "features.1"},
                outputs={"heatmaps": ""},
                given={"images": fingerprints.inputs_of(fingerprints.load(FILE))["image"].transpose(0, 3, 1, 2)},
                losses={"stack0": "stack0", "stack1": "stack1"},
                targets=stored_maps,
                criterion={"weight": 2.0},
            )
        ],
    ),
    Case("hourglass_1", images(64, 64), maps(64, 64), SMALL, without=SAME_GRAPH),
]
