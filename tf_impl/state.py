"""A Keras model's tensors as numpy arrays under PyTorch's names and in PyTorch's layouts.

Walking the attributes of a model (lists by index, dictionaries by key) gives the dotted names; each layer class
declares the last part of a name and the order of the axes (``layers/names.py``). There is no table per model.

Mirror notes:
- PyTorch has ``state_dict`` of its own; here the attributes are walked.
"""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf_impl.layers.names import mark_containers, named_layers, named_variables
from weights import store

__all__ = ["build", "load_state_dict", "named_layers", "state_dict", "trainable", "variables"]


def build(model, inputs: Mapping | None = None):
    """Create all variables of a model.

    Keras layers learn the width of their input when they see it, so the model is called once with symbolic tensors,
    unless all of its layers know their widths. A part that is only used in training must also be called while
    ``self.built`` is false.

    Args:
        model: a Keras model or layer.
        inputs: in the order of the model's arguments and by name: example arrays, or (shape without the batch, dtype).
            If None: one float tensor of the model's ``input_spec``.

    Returns:
        The model.

    Raises:
        ValueError: if a layer does not know its width, and there is neither ``inputs`` nor an ``input_spec``.
    """
    unknown = mark_containers(model)
    if unknown:
        spec = getattr(model, "input_spec", None)
        if inputs is None and spec is not None:
            inputs = {"input": (_shape(spec), model.compute_dtype)}
        if inputs is None:
            raise ValueError(
                f"inputs=None: the width of {unknown[0]} is not known; build the model with example inputs"
            )
        model(*(_symbolic(value) for value in inputs.values()))
    return model


def _shape(spec: keras.layers.InputSpec) -> tuple:
    shape = list(spec.shape or (None,) * (spec.ndim or spec.min_ndim))
    for axis, size in (spec.axes or {}).items():
        shape[axis] = size
    return tuple(shape[1:])


def _symbolic(value):
    """A symbolic tensor for an array or (shape without the batch, dtype); the same in dictionaries and lists."""
    if isinstance(value, Mapping):
        return {key: _symbolic(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_symbolic(item) for item in value]
    shape, dtype = value if isinstance(value, tuple) else (value.shape[1:], value.dtype)
    return keras.Input(tuple(shape), dtype=keras.backend.standardize_dtype(dtype))


def variables(model) -> dict[str, tuple[keras.Variable, tuple | None]]:
    """Every variable of a built model under its PyTorch name, with the axes that transpose it into PyTorch's layout."""
    found = {}
    for prefix, layer in named_layers(model):
        for leaf, variable, axes in named_variables(layer):
            found[f"{prefix}.{leaf}" if prefix else leaf] = (variable, axes)
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
