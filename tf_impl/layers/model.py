"""The base of the models: keras.Model with layers named after their attributes, and a config that holds parts.

No twin: PyTorch names modules after their attributes, and copies and saves them without a config.
"""

import functools
import inspect
import re
from collections.abc import Mapping

import keras

from .names import mark_containers, named_layers

__all__ = ["Model", "TextModel", "TokenModel"]

KEPT = ("name", "trainable", "dtype")  # what Keras writes to every config


def _snake(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()


def _numbered(layer) -> bool:
    """Whether Keras chose the name."""
    return re.fullmatch(rf"{_snake(type(layer).__name__)}(_\d+)?", layer.name) is not None


def _encode(value):
    """A constructor's argument for a config: layer classes, partials of them, and layers included."""
    if isinstance(value, functools.partial):
        if value.args:
            raise ValueError(f"{value}: a part with positional arguments cannot be saved; name them")
        return {"partial": _encode(value.func), "options": _encode(value.keywords)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if inspect.isclass(value) or inspect.isfunction(value):
        return {"registered": keras.saving.get_registered_name(value)}
    return {"object": keras.saving.serialize_keras_object(value)}


def _decode(value):
    if isinstance(value, (list, tuple)):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"partial", "options"}:
        return functools.partial(_decode(value["partial"]), **_decode(value["options"]))
    if set(value) == {"registered"}:
        found = keras.saving.get_registered_object(value["registered"])
        if found is None:
            raise ValueError(f"{value['registered']!r} is not registered; import the module that defines it")
        return found
    if set(value) == {"object"}:
        return keras.saving.deserialize_keras_object(value["object"])
    return {key: _decode(item) for key, item in value.items()}


@keras.saving.register_keras_serializable("diptych")
class Model(keras.Model):
    """keras.Model whose summary, ``.keras`` files and copies work whatever its constructor takes.

    A layer that is set as an attribute is named after it, and so are its own layers, unless it was given a name:
    ``conv1``, not ``conv2d_339``. The constructor's arguments are kept for ``get_config``; Keras itself only keeps
    numbers and strings.
    """

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls, *args, **kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        given = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        given.pop(next(iter(parameters)).name)
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(parameter.name, {})
        object.__setattr__(self, "_arguments", {name: x for name, x in given.items() if name not in KEPT})
        return self

    def __setattr__(self, name, value):
        if isinstance(value, (keras.layers.Layer, list, tuple, Mapping)) and not name.startswith("_"):
            for path, layer in named_layers(value, name.rstrip("_")):
                if _numbered(layer):
                    *above, last = path.split(".")
                    layer.name = f"{above[-1]}_{last}" if last.isdigit() and above else last
        super().__setattr__(name, value)

    def get_config(self):
        kept = {name: value for name, value in super().get_config().items() if name in KEPT}
        return {**kept, **{name: _encode(value) for name, value in self._arguments.items()}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        dtype = config.pop("dtype", None)
        config = {key: _decode(value) for key, value in config.items()}
        if dtype is not None:
            config["dtype"] = keras.saving.deserialize_keras_object(dtype) if isinstance(dtype, dict) else dtype
        return cls(**config)

    def get_build_config(self):
        """Every input that the model was built with; Keras itself only keeps the first."""
        try:
            given = self.input
        except (AttributeError, ValueError):  # it was never called with symbolic tensors
            return super().get_build_config()
        specs = [{"shape": list(x.shape), "dtype": x.dtype} for x in keras.tree.flatten(given)]
        return {"inputs": specs}

    def build_from_config(self, config):
        if not mark_containers(self):
            return
        if "inputs" not in config:
            super().build_from_config(config)
            return
        self(*(keras.Input(batch_shape=spec["shape"], dtype=spec["dtype"]) for spec in config["inputs"]))


@keras.saving.register_keras_serializable("diptych")
class TextModel(Model):
    """A model whose inputs ``fit``, ``evaluate`` and ``predict`` may pass as a dictionary, or as a list in the order of
    its arguments.
    """

    def __call__(self, *args, **kwargs):
        first = args[0] if len(args) == 1 else None
        if isinstance(first, Mapping):
            return super().__call__(**first, **kwargs)
        return super().__call__(*(first if isinstance(first, (list, tuple)) else args), **kwargs)


@keras.saving.register_keras_serializable("diptych")
class TokenModel(TextModel):
    """A model of token indices and masks, all (N, T) int: ``build()`` needs no example of them."""

    token_shape = (None,)

    def build(self, input_shape=None):
        needed = [p for p in inspect.signature(self.call).parameters.values() if p.default is p.empty]
        self.built = True  # except its parts, which are built when called, those for training included
        self(*(keras.Input(self.token_shape, dtype="int64") for _ in needed), training=True)
