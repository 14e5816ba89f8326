"""References of networks that the converter of darknet's configuration files builds."""

import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import Reference


def scaled_image(file: str, factor: float, name: str = "image", before: tuple[str, ...] = ()) -> np.ndarray:
    """The noise of a fingerprint, multiplied; ``before`` are the inputs whose noise comes first."""
    inputs, rng = fingerprints.load(file)["inputs"], np.random.default_rng(0)
    for earlier in before:
        rng.standard_normal(inputs[earlier]["shape"])
    noise = rng.standard_normal(inputs[name]["shape"]).astype(np.float32) * np.float32(factor)
    return noise.astype(np.float64)


def converted(file: str, layers: tuple[int, ...], outputs: tuple[str, ...], factor: float = 1.0) -> Reference:
    """The maps of some layers, and the results before the layers of darknet that decode them."""
    return Reference(
        file,
        modules={f"layers.{i}": f"models.{i}" for i in layers},
        outputs={f"raw.{i}": output for i, output in enumerate(outputs)},
        inputs={"image": "images"},
        given={"images": scaled_image(file, factor)},
    )
