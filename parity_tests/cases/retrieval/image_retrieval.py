import numpy as np

from parity_tests.harness.case import SAME_GRAPH, Case, images

SMALL = {"block": "basic", "layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10)}
TUPLE = 4
SIZES = {"images": ("N", None, "H", "W")}


def tuple_images(rng, batch):
    return images(67, 75)(rng, TUPLE * batch)


def embeddings(rng, batch):
    return {"embeddings": rng.standard_normal((TUPLE * batch, 6)) / 4}


def labels(rng, batch):
    return {"labels": np.tile([-1, 1, 0, 0], batch)}


POWER = {"onnx": (2e-4, "the seeded power of the pool is near 0: its inverse amplifies the rounding of float32")}


def net(model: str, variant: str = "", dynamic=None, without=None, bounds=None, **options) -> Case:
    options = {**SMALL, **options}
    return Case(
        model,
        tuple_images,
        labels,
        options,
        {"size": TUPLE},
        variant=variant,
        dynamic=SIZES if dynamic is None else dynamic,
        without=without or {},
        bounds=bounds or {},
    )


CASES = [
    net("gem_resnet50", bounds=POWER),
    net("gem_resnet50", "local_whitening", local_whitening=True, whitening=False, without=SAME_GRAPH),
    net("gem_resnet50", "regional", dynamic={}, bounds=POWER, regional=True),
    net("gem_resnet101", without=SAME_GRAPH),
    net("mac_resnet50"),
    net("spoc_resnet50"),
    net("crow_resnet50"),
    net("rmac_resnet101", dynamic={}),
    Case("tuple_contrastive", embeddings, labels, {"size": TUPLE}),
    Case("tuple_triplet", embeddings, labels, {"size": TUPLE, "margin": 0.5}),
]
