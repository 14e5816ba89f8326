"""What the cases of the generative models share."""

import re

import numpy as np

from parity_tests.harness import fingerprints
from weights.seeded import seeded


def unit_images(rng, batch: int, height: int, width: int):
    """Images in [0, 1]."""
    return rng.uniform(size=(batch, 3, height, width))


def ramp(target: str, output: str = "output"):
    """Makes the target of a stored L1 loss: from -1 to 1 over all values of the output."""

    def make(expected):
        shape = expected["outputs"][output]["shape"]
        return {target: np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)}

    return make


def nothing(expected):
    return {}


def filled_by_other_names(file: str, rename):
    """The weights of a file whose names are not ours: the rule was applied to its own names."""

    def change(values):
        theirs = {name: tuple(shape) for name, shape in fingerprints.load(file)["tensors"]}
        found = dict(values)
        for name, value in seeded(theirs).items():
            for pattern, replacement in rename.items():
                name = re.sub(pattern, replacement, name)
            found[name] = value
        return found

    return change
