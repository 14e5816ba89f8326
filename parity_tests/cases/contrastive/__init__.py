"""Two views of a batch, and small ResNets, for the contrastive systems."""

from parity_tests.harness.case import images

__all__ = ["SMALL", "nothing", "views"]

SMALL = {"block": "basic", "layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10)}


def views(*names: str, height: int = 33, width: int = 37):
    makers = [images(height, width, name=name) for name in names]

    def make(rng, batch):
        return {name: array for maker in makers for name, array in maker(rng, 2 * batch).items()}

    return make


def nothing(rng, batch):
    return {}
