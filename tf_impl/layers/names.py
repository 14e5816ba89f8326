"""What the layers of a Keras model, and their variables, are called in PyTorch.

A layer class says in ``torch_names`` which of its attributes are variables with another name or layout in PyTorch:
attribute -> (last part of the name, axes that transpose the Keras layout into PyTorch's, or None). Without a
declaration, variables are named like their attributes. Keras' own classes are listed here.

No twin: PyTorch has ``named_modules`` and ``state_dict``.
"""

from collections.abc import Iterator, Mapping

import keras

__all__ = ["mark_containers", "named_layers", "named_variables"]

_NORM = {
    "gamma": ("weight", None),
    "beta": ("bias", None),
    "moving_mean": ("running_mean", None),
    "moving_variance": ("running_var", None),
}

KERAS = {
    keras.layers.Conv1D: {"kernel": ("weight", (2, 1, 0)), "bias": ("bias", None)},
    keras.layers.Conv2D: {"kernel": ("weight", (3, 2, 0, 1)), "bias": ("bias", None)},
    keras.layers.Conv3D: {"kernel": ("weight", (4, 3, 0, 1, 2)), "bias": ("bias", None)},
    keras.layers.Conv2DTranspose: {"kernel": ("weight", (3, 2, 0, 1)), "bias": ("bias", None)},
    keras.layers.Dense: {"kernel": ("weight", (1, 0)), "bias": ("bias", None)},
    keras.layers.Embedding: {"embeddings": ("weight", None)},
    keras.layers.BatchNormalization: _NORM,
    keras.layers.GroupNormalization: _NORM,
    keras.layers.LayerNormalization: _NORM,
}


def declared(layer) -> Mapping[str, tuple[str, tuple | None]] | None:
    """The names that a layer's class declares, or None."""
    found = getattr(layer, "torch_names", None)
    if found is None:
        found = next((names for cls, names in KERAS.items() if isinstance(layer, cls)), None)
    return found


def _children(node) -> Iterator[tuple[str, object]]:
    if isinstance(node, keras.Sequential):
        yield from ((str(i), layer) for i, layer in enumerate(node.layers))
    elif isinstance(node, keras.layers.Layer):
        # a name that Keras owns, such as "output", is written with an underscore after it
        yield from ((key.rstrip("_"), value) for key, value in vars(node).items() if not key.startswith("_"))
    elif isinstance(node, Mapping):
        yield from ((str(key), value) for key, value in node.items())
    elif isinstance(node, (list, tuple)):
        yield from ((str(i), value) for i, value in enumerate(node))


def named_layers(model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer with its dotted name, parents before children; a shared layer appears under each of its names."""
    if isinstance(model, keras.layers.Layer):
        yield prefix, model
    for key, child in _children(model):
        if isinstance(child, (keras.layers.Layer, Mapping, list, tuple)):
            yield from named_layers(child, f"{prefix}.{key}" if prefix else key)


def named_variables(layer) -> Iterator[tuple[str, keras.Variable, tuple | None]]:
    """The variables that a layer holds itself: name in PyTorch, variable, axes that transpose it into PyTorch's."""
    names = declared(layer)
    if names is not None:
        for attribute, (leaf, axes) in names.items():
            value = getattr(layer, attribute, None) if layer.built else None
            if isinstance(value, keras.Variable):
                yield leaf, value, axes
        return
    for key, value in _children(layer):
        if isinstance(value, keras.Variable):
            yield key, value, None
        elif isinstance(value, (list, tuple)) and not isinstance(layer, keras.Sequential):
            for i, item in enumerate(value):
                if isinstance(item, keras.Variable):
                    yield f"{key}.{i}", item, None


def mark_containers(model) -> list[str]:
    """Build all layers that know their widths, and mark those as built whose variables are all in their children.

    Keras would trace each of the latter separately before it traces the model; once is enough. The model itself and its
    own ``keras.Sequential`` stay as they are if anything is left to be built.

    Returns:
        Names of the layers that do not know their widths yet.
    """
    inherited = keras.layers.Layer.build, keras.Model.build, keras.Sequential.build
    containers, unknown = [], []
    for name, layer in named_layers(model):
        if layer.built:
            continue
        if type(layer).build in inherited:
            containers.append((name, layer))
            continue
        try:
            layer.build(None)
        except (AttributeError, TypeError):
            unknown.append(name)
    for name, layer in containers:
        outer = layer is model or (isinstance(layer, keras.Sequential) and "." not in name)
        layer.built = not (unknown and outer)
    return unknown
