import re

import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference, images
from weights.seeded import seeded

FILE = "pytorch_prnet_resfcn256"
LEAVES = {
    "weights": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def port_names() -> dict[str, str]:
    """Our name, which is TensorFlow's, by that of the port that the file was made with."""
    found = {}
    for theirs, port in fingerprints.load(FILE)["names"].items():
        *path, leaf = theirs.split("/")
        found[port] = ".".join([*path, LEAVES[leaf]])
    counters = {port: ours for port, ours in found.items() if port.endswith("running_mean")}
    for port, ours in counters.items():
        found[port.replace("running_mean", "num_batches_tracked")] = ours.replace("running_mean", "num_batches_tracked")
    return found


NAMES = port_names()


def of_the_port(weights):
    """The seeded weights by the names of the port."""
    shapes = {name: tuple(shape) for name, shape in fingerprints.load(FILE)["tensors"]}
    return {NAMES[name]: value for name, value in seeded(shapes).items()}


def stored_positions(expected):
    y, x = np.arange(64)[:, None], np.arange(96)
    positions = 0.5 + 0.4 * np.sin(0.1 * (x + 2 * y) + np.arange(3)[:, None, None])
    weight = 4.0 * ((y + 2 * x) % 4)
    return {"positions": np.tile(positions, (2, 1, 1, 1)), "weight": np.tile(weight, (2, 1, 1, 1))}


def positions(rng, batch):
    weight = rng.choice([0.0, 3.0, 4.0, 16.0], (batch, 1, 96, 64))
    return {"positions": rng.uniform(size=(batch, 3, 96, 64)), "weight": weight}


PREFIX = "resfcn256"

CASES = [
    Case(
        "prnet",
        images(96, 64),
        positions,
        {"base": 4},
        references=[
            Reference(
                FILE,
                modules={
                    "input_conv": f"{PREFIX}.Conv",
                    "down_conv_1": f"{PREFIX}.resBlock",
                    "down_conv_4": f"{PREFIX}.resBlock_3",
                    "down_conv_10": f"{PREFIX}.resBlock_9",
                    "center_conv": f"{PREFIX}.Conv2d_transpose",
                    "up_conv_5": f"{PREFIX}.Conv2d_transpose_3",
                    "up_conv_1": f"{PREFIX}.Conv2d_transpose_13",
                },
                outputs={"position_map": ""},
                inputs={"image": "images"},
                losses={"weighted_mse": "weighted_mse"},
                targets=stored_positions,
                weights=of_the_port,
                rename={f"^{re.escape(port)}$": ours for port, ours in NAMES.items()},
            )
        ],
    )
]
