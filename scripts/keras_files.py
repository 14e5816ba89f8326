"""Saved weights of ``keras.applications`` under our names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scripts.output import Problem, line
from scripts.references import call_of
from weights import catalog

__all__ = ["SHORTCUTS", "SUFFIXES", "in_xception", "of_applications", "read"]

SUFFIXES = (".weights.h5", ".h5", ".keras")
PACKAGE = "keras.applications."
XCEPTION = {"block1_conv1": "conv1", "block1_conv1_bn": "bn1", "block1_conv2": "conv2", "block1_conv2_bn": "bn2"}
XCEPTION |= {"predictions": "fc"}
XCEPTION |= {f"block14_sepconv{i}": f"conv{i + 2}" for i in (1, 2)}
XCEPTION |= {f"block14_sepconv{i}_bn": f"bn{i + 2}" for i in (1, 2)}
SHORTCUTS = [f"block{block}.{part}" for block in (1, 2, 3, 12) for part in ("skip", "skipbn")]
SEPARABLE = ("conv1.weight", "pointwise.weight")
NORM = ("weight", "bias", "running_mean", "running_var")


def of_applications(model: catalog.Model) -> bool:
    """Whether the public implementation of a model is a network of ``keras.applications``."""
    return model.reference.startswith(PACKAGE)


def read(path: Path, model: catalog.Model, options: Mapping) -> dict[str, np.ndarray]:
    """The tensors of a file saved from a network of ``keras.applications``.

    Args:
        path: weights or a whole model, ``.weights.h5``, ``.h5`` or ``.keras``.
        model: what the network is here.
        options: of our builder.

    Raises:
        Problem: if they are not that network's.
    """
    import keras

    _, builder, _, given = call_of(model.reference)
    given |= {"weights": None, "classes": options.get("num_classes", 1000), "classifier_activation": None}
    network = getattr(keras.applications, builder)(**given)
    try:
        network.load_weights(path)
    except Exception as error:  # h5py and Keras raise many types for damaged and for other models' files
        raise Problem(f"{path}: no weights of {PACKAGE}{builder}, nor of {model.name}: {line(error)}") from None
    shortcuts, found = iter(SHORTCUTS), {}
    for layer in network.layers:
        if not layer.weights:
            continue
        name = layer.name if builder != "Xception" else in_xception(layer.name) or next(shortcuts)
        values = [np.asarray(value) for value in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            leaves = NORM
        elif isinstance(layer, keras.layers.SeparableConv2D):
            leaves = SEPARABLE
        else:
            leaves = ("weight", "bias")
        for leaf, value in zip(leaves, values):
            depthwise = leaf == "conv1.weight" or isinstance(layer, keras.layers.DepthwiseConv2D)
            axes = {4: (2, 3, 0, 1) if depthwise else (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
            found[f"{name}.{leaf}"] = value.transpose(axes)
    return found


def in_xception(name: str) -> str | None:
    """Our name of a layer of Keras' Xception; None for a shortcut, which Keras numbers across the whole process."""
    if name in XCEPTION or not name.startswith("block"):
        return XCEPTION.get(name)
    block, part = name.removesuffix("_bn").split("_")
    block, part = int(block.removeprefix("block")), int(part.removeprefix("sepconv"))
    place = 3 * (part - 1) + (block > 2)  # the first block has no first ReLU
    return f"block{block - 1}.rep.{place + name.endswith('_bn')}"
