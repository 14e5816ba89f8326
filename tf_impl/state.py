"""A Keras model's tensors as numpy arrays under PyTorch's names and in PyTorch's layouts.

Walking the attributes of a model (lists by index, dictionaries by key) gives the dotted names; the rules by layer type
below give the last part of a name and the order of the axes. There is no table per model.

Mirror notes:
- PyTorch has ``state_dict`` of its own; here the attributes are walked.
"""

from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.convolution import Conv2d, ConvTranspose2d
from tf_impl.layers.deform_conv import DeformConv2dPack
from tf_impl.layers.generalized_attention import GeneralizedAttention
from tf_impl.layers.linear import Embedding, Linear
from tf_impl.layers.normalization import StdLayerNorm
from weights import store

__all__ = ["build", "load_state_dict", "state_dict", "trainable", "variables"]

_NORM = {
    "gamma": ("weight", None),
    "beta": ("bias", None),
    "moving_mean": ("running_mean", None),
    "moving_variance": ("running_var", None),
}
_CONVOLUTION = {"kernel": ("weight", (3, 2, 0, 1))}  # HWIO to OIHW
_LINEAR = {"kernel": ("weight", (1, 0))}

# attribute of the layer -> (last part of the name, axes that turn the Keras layout into the PyTorch one)
LEAF_RULES = (
    ((Conv2d, ConvTranspose2d, DeformConv2dPack), _CONVOLUTION),
    ((Linear, keras.layers.Dense), _LINEAR),
    ((Embedding, keras.layers.Embedding), {"embeddings": ("weight", None)}),
    (GeneralizedAttention, {}),  # its gamma is no scale of a normalisation
    (StdLayerNorm, {}),  # the checkpoints call its parameters gamma and beta, too
)


def build(model):
    """Create all variables of a model. Its layers know their widths, so that no input is needed and nothing is traced.

    Args:
        model: a Keras model or layer of this package.

    Returns:
        The model.
    """
    inherited = keras.layers.Layer.build, keras.Model.build, keras.Sequential.build
    for _, layer in list(named_layers(model)):
        if layer.built:
            continue
        if type(layer).build in inherited:  # all variables are in its children
            layer.built = True
        else:
            layer.build(None)
    return model


def _children(node) -> Iterator[tuple[str, object]]:
    if isinstance(node, keras.Sequential):
        yield from ((str(i), layer) for i, layer in enumerate(node.layers))
    elif isinstance(node, keras.layers.Layer):
        # a name that Keras owns, such as "output", is written with an underscore behind it
        yield from ((key.rstrip("_"), value) for key, value in vars(node).items() if not key.startswith("_"))
    elif isinstance(node, Mapping):
        yield from ((str(key), value) for key, value in node.items())
    elif isinstance(node, (list, tuple)):
        yield from ((str(i), value) for i, value in enumerate(node))


def _rules(layer) -> Mapping:
    for types, rules in LEAF_RULES:
        if isinstance(layer, types):
            return rules
    return _NORM


def named_layers(model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer with its dotted name, parents before children; a layer held twice comes under both names."""
    if isinstance(model, keras.layers.Layer):
        yield prefix, model
    for key, child in _children(model):
        if isinstance(child, (keras.layers.Layer, Mapping, list, tuple)):
            yield from named_layers(child, f"{prefix}.{key}" if prefix else key)  # mirror: of its own


def variables(model) -> dict[str, tuple[keras.Variable, tuple | None]]:
    """Every variable of a built model under its PyTorch name, with the axes that turn its layout into PyTorch's."""
    found = {}
    for prefix, layer in named_layers(model):
        rules = _rules(layer)
        for key, value in _children(layer):
            if isinstance(value, keras.Variable):
                leaf, axes = rules.get(key, (key, None))
                found[f"{prefix}.{leaf}" if prefix else leaf] = (value, axes)
            elif isinstance(value, (list, tuple)):  # a list of bare variables
                for i, item in enumerate(value):
                    if isinstance(item, keras.Variable):
                        found[f"{prefix}.{key}.{i}" if prefix else f"{key}.{i}"] = (item, None)
    return found


def trainable(model) -> dict[str, tuple[keras.Variable, tuple | None]]:
    """The trainable part of :func:`variables`; a variable with several names is listed under the first."""
    found, seen = {}, set()
    for name, (variable, axes) in variables(model).items():
        if variable.trainable and id(variable) not in seen:
            seen.add(id(variable))
            found[name] = (variable, axes)
    return found


def to_torch(array: np.ndarray, axes: tuple | None) -> np.ndarray:
    """An array of a variable (its value, its gradient) in PyTorch's layout."""
    return array if axes is None else np.ascontiguousarray(array.transpose(axes))


def state_dict(model) -> dict[str, np.ndarray]:
    """All tensors of a built model: PyTorch's names and layouts, numpy arrays."""
    return {name: to_torch(variable.numpy(), axes) for name, (variable, axes) in variables(model).items()}


def load_state_dict(model, tensors: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Set the variables of a built model.

    Args:
        model: a Keras model whose variables exist (see :func:`build`).
        tensors: arrays under PyTorch's names, in PyTorch's layouts.
        strict: refuse missing and unexpected names; otherwise only what is in both is loaded.

    Raises:
        ValueError: lists every missing, unexpected and misshapen entry; the model is unchanged then.
    """
    own = variables(model)
    shapes = {}
    for name, (variable, axes) in own.items():
        shape = tuple(variable.shape)
        shapes[name] = shape if axes is None else tuple(shape[axis] for axis in axes)
    store.check(shapes, tensors, strict=strict)
    for name in own.keys() & tensors.keys():
        variable, axes = own[name]
        array = np.asarray(tensors[name])
        variable.assign(tf.constant(array if axes is None else array.transpose(np.argsort(axes)), variable.dtype))
