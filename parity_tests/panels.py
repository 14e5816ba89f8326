"""The two panels behind one interface: arrays in, arrays out, PyTorch's names and layouts.

``TensorFlow`` and ``PyTorch`` build a model of the catalogue, fill it, run it, differentiate it, train it, export it
and record what its modules compute. Everything that compares the two is in ``measure``.
"""

import contextlib
import importlib
import inspect
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
import torch

import tf_impl.export
import tf_impl.state
import torch_impl.export
import torch_impl.state
from weights import catalog, onnx_file

__all__ = ["PyTorch", "TensorFlow"]

MOMENTUM = 0.5  # of the proof's optimiser; exact in every precision

Arrays = dict[str, np.ndarray]


def _cast(array: np.ndarray, precision: str) -> np.ndarray:
    return array.astype(precision) if array.dtype.kind == "f" else array


class Panel:
    """One framework's model.

    Args:
        entry: the model's table in the catalogue.
        options: builder options.
        criterion: options of the criterion.
        postprocess: options of the post-process.
        precision: "float64" or "float32".
    """

    package = ""  # and ``export_forms``, of the framework's export module

    def __init__(
        self,
        entry: catalog.Model,
        options: Mapping,
        criterion: Mapping | None = None,
        postprocess: Mapping | None = None,
        precision: str = "float64",
    ):
        self.entry, self.precision = entry, precision
        self.maps = {
            name
            for tensors in (entry.inputs, entry.outputs, entry.targets)
            for name, tensor in tensors.items()
            if tensor.layout == "NCHW"
        }
        module = importlib.import_module(f"{self.package}.{entry.module}")
        with self._policy():
            builder = getattr(module, entry.builder)
            self.model = self._build(builder, {**entry.options, **options})
            self.criterion = self._part(module, entry.criterion, criterion)
            self.postprocess = self._part(module, entry.postprocess, postprocess)
            self.trainer = getattr(module, entry.trainer) if entry.trainer else None

    def _part(self, module, name, options):
        return None if name is None else self._place(getattr(module, name)(**(options or {})))

    @property
    def returned(self) -> list[str]:
        """Names of what the model returns if it is a tensor or a list of them."""
        return list(self.entry.outputs) or ["output"]

    def export(
        self,
        path: Path,
        inputs: Arrays,
        targets: Arrays | None,
        dynamic: Mapping,
        results: bool = False,
        half: bool = False,
    ):
        """ONNX; with targets, of model and criterion; with ``results``, of model and post-process."""
        form = "losses" if targets is not None else "results" if results else "model"
        return self.export_all({form: path}, inputs, targets or {}, dynamic, half)[form]

    def export_all(
        self, paths: Mapping[str, Path], inputs: Arrays, targets: Arrays, dynamic: Mapping, half: bool = False
    ):
        """ONNX files of several forms ("model", "losses", "results") from one trace."""
        return self.export_forms(
            self.model,
            paths,
            {name: _cast(array, "float32") for name, array in inputs.items()},
            maps=self.maps,
            outputs=self.returned,
            dynamic=dynamic,
            criterion=self.criterion,
            targets={name: _cast(array, "float32") for name, array in targets.items()},
            postprocess=self.postprocess,
            metadata={"model": self.entry.name},
            half=half,
        )

    def named(self, outputs) -> dict:
        """What the model returned, by name."""
        return onnx_file.named(outputs, self.returned)

    def record(self, inputs: Arrays, training: bool = False) -> dict[str, list[tuple[list, list]]]:
        """For every module in the order in which it finishes: its float inputs and outputs at each call."""
        with self.recording() as calls:
            self.outputs(inputs, training)
        return calls


class PyTorch(Panel):
    """The PyTorch panel's model."""

    package = "torch_impl"
    export_forms = staticmethod(torch_impl.export.export_forms)

    @contextlib.contextmanager
    def _policy(self):
        yield

    def _place(self, module):
        return module.to(getattr(torch, self.precision)).eval()

    def _build(self, builder, options):
        if inspect.isclass(builder) or self.entry.kind == "model":
            return self._place(builder(**options))
        return TorchFunction(builder, options)

    def tensors(self, arrays: Arrays) -> dict:
        return {name: torch.from_numpy(np.array(_cast(array, self.precision))) for name, array in arrays.items()}

    def arrays(self, tensors: Mapping) -> Arrays:
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

    def shapes(self) -> dict[str, tuple]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    def aliases(self) -> dict[str, str]:
        """Names of tensors that the model holds under another name already -> that name."""
        first, found = {}, {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if first.setdefault(id(tensor), name) != name:
                found[name] = first[id(tensor)]
        return found

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def load(self, tensors: Arrays, strict: bool = True):
        torch_impl.state.load_state_dict(self.model, tensors, strict=strict)

    def state(self) -> Arrays:
        return torch_impl.state.state_dict(self.model)

    def outputs(self, inputs: Arrays, training: bool = False) -> Arrays:
        before = self.state() if training else None
        self.model.train(training)
        with torch.no_grad():
            found = self.arrays(self.named(self.model(*self.tensors(inputs).values())))
        self.model.eval()
        if training:  # the running statistics moved
            self.load(before)
        return found

    def results(self, inputs: Arrays) -> Arrays:
        with torch.no_grad():
            return self.arrays(self.postprocess(self.model(*self.tensors(inputs).values())))

    def _losses(self, inputs, targets):
        outputs = self.model(*inputs.values())
        if self.criterion is not None:
            return self.criterion(outputs, targets)
        # without a criterion: a fixed, smooth function of every output
        outputs = self.named(outputs)
        return {
            "total": sum((_probe(y.shape, self.precision) * y).sum() for y in outputs.values() if y.is_floating_point())
        }

    def losses(self, inputs: Arrays, targets: Arrays) -> Arrays:
        with torch.no_grad():
            return self.arrays(self._losses(self.tensors(inputs), self.tensors(targets)))

    def gradients(self, inputs: Arrays, targets: Arrays, wrt_inputs: bool = False) -> Arrays:
        """Of the total loss, for every trainable parameter, and for float inputs if asked (``input.<name>``)."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        if wrt_inputs:
            for tensor in inputs.values():
                tensor.requires_grad_(tensor.is_floating_point())
        with torch.enable_grad():
            total = self._losses(inputs, targets)["total"]
        wanted = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        wanted |= {f"criterion.{name}": p for name, p in (self.criterion.named_parameters() if self.criterion else ())}
        if wrt_inputs:
            wanted |= {f"input.{name}": tensor for name, tensor in inputs.items() if tensor.requires_grad}
        values = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        return {
            name: np.zeros(tuple(p.shape)) if value is None else value.numpy()
            for (name, p), value in zip(wanted.items(), values, strict=True)
        }

    def train(self, inputs: Arrays, targets: Arrays, learning_rate: float, steps: int = 3) -> list[Arrays]:
        """Training steps with momentum; the losses of each. A model with a trainer takes its own steps."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        self.model.train()
        if self.trainer is not None:
            trainer = self.trainer(self.model)
            history = [self.arrays(trainer.step(inputs, targets)) for _ in range(steps)]
        else:
            optimiser = torch.optim.SGD(
                [p for p in self.model.parameters() if p.requires_grad], lr=learning_rate, momentum=MOMENTUM
            )
            history = []
            for _ in range(steps):
                optimiser.zero_grad()
                losses = self._losses(inputs, targets)
                losses["total"].backward()
                optimiser.step()
                history.append(self.arrays(losses))
        self.model.eval()
        return history

    @contextlib.contextmanager
    def recording(self, names: Collection[str] | None = None):
        """Keep what modules (these, or all) are given and return: name -> float inputs and outputs of every call."""
        calls: dict[str, list] = {}

        def hook(name):
            def record(module, given, result):
                calls.setdefault(name, []).append((_floats(given), _floats(result)))

            return record

        modules = [(name, m) for name, m in self.model.named_modules() if name and (names is None or name in names)]
        handles = [module.register_forward_hook(hook(name)) for name, module in modules]
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()


class TensorFlow(Panel):
    """The TensorFlow panel's model."""

    package = "tf_impl"
    export_forms = staticmethod(tf_impl.export.export_forms)

    @contextlib.contextmanager
    def _policy(self):
        before = keras.config.dtype_policy(), keras.config.floatx()
        keras.config.set_floatx(self.precision)
        keras.config.set_dtype_policy(self.precision)
        try:
            yield
        finally:
            keras.config.set_floatx(before[1])
            keras.config.set_dtype_policy(before[0])

    def _place(self, layer):
        return layer

    def _build(self, builder, options):
        if not (inspect.isclass(builder) or self.entry.kind == "model"):
            return KerasFunction(builder, options)
        return tf_impl.state.build(builder(**options))

    def _is_map(self, name, value) -> bool:
        return name in self.maps and len(value.shape) == 4

    def tensors(self, arrays: Arrays) -> dict:
        return {
            name: tf.constant(_cast(a.transpose(0, 2, 3, 1) if self._is_map(name, a) else a, self.precision))
            for name, a in arrays.items()
        }

    def arrays(self, tensors: Mapping) -> Arrays:
        return {
            name: np.transpose(x, (0, 3, 1, 2)) if self._is_map(name, x) else np.asarray(x)
            for name, x in tensors.items()
        }

    def shapes(self) -> dict[str, tuple]:
        variables = tf_impl.state.variables(self.model)
        shapes = {name: (tuple(variable.shape), axes) for name, (variable, axes) in variables.items()}
        return {
            name: shape if axes is None else tuple(shape[i] for i in axes) for name, (shape, axes) in shapes.items()
        }

    def aliases(self) -> dict[str, str]:
        first, found = {}, {}
        for name, (variable, _) in tf_impl.state.variables(self.model).items():
            if first.setdefault(id(variable), name) != name:
                found[name] = first[id(variable)]
        return found

    def load(self, tensors: Arrays, strict: bool = True):
        tf_impl.state.load_state_dict(self.model, tensors, strict=strict)

    def state(self) -> Arrays:
        return tf_impl.state.state_dict(self.model)

    def outputs(self, inputs: Arrays, training: bool = False) -> Arrays:
        before = self.state() if training else None
        found = self.arrays(self.named(self.model(*self.tensors(inputs).values(), training=training)))
        if training:
            self.load(before)
        return found

    def results(self, inputs: Arrays) -> Arrays:
        return self.arrays(self.postprocess(self.model(*self.tensors(inputs).values(), training=False)))

    def _losses(self, inputs, targets, training=False):
        outputs = self.model(*inputs.values(), training=training)
        if self.criterion is not None:
            return self.criterion(outputs, targets)
        total = 0
        for name, y in self.named(outputs).items():
            if y.dtype.is_floating:
                shape = [y.shape[i] for i in (0, 3, 1, 2)] if self._is_map(name, y) else y.shape
                probe = _probe(shape, self.precision).numpy()
                total += tf.reduce_sum((probe.transpose(0, 2, 3, 1) if self._is_map(name, y) else probe) * y)
        return {"total": total}

    def losses(self, inputs: Arrays, targets: Arrays) -> Arrays:
        return self.arrays(self._losses(self.tensors(inputs), self.tensors(targets)))

    def gradients(self, inputs: Arrays, targets: Arrays, wrt_inputs: bool = False) -> Arrays:
        """Of the total loss, for every trainable parameter, and for float inputs if asked (``input.<name>``)."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        wanted = tf_impl.state.trainable(self.model)
        if self.criterion is not None:
            own = tf_impl.state.trainable(self.criterion)
            wanted |= {f"criterion.{name}": value for name, value in own.items()}
        given = {name: x for name, x in inputs.items() if wrt_inputs and x.dtype.is_floating}
        with tf.GradientTape() as tape:
            for x in given.values():
                tape.watch(x)
            total = self._losses(inputs, targets)["total"]
        sources = [variable.value for variable, _ in wanted.values()] + list(given.values())
        values = tape.gradient(total, sources, unconnected_gradients="zero")
        values = [tf.convert_to_tensor(value).numpy() for value in values]  # embeddings have sparse gradients
        found = {
            name: tf_impl.state.to_torch(value, axes)
            for (name, (_, axes)), value in zip(wanted.items(), values[: len(wanted)], strict=True)
        }
        found |= {
            f"input.{name}": value.transpose(0, 3, 1, 2) if self._is_map(name, value) else value
            for name, value in zip(given, values[len(wanted) :], strict=True)
        }
        return found

    def train(self, inputs: Arrays, targets: Arrays, learning_rate: float, steps: int = 3) -> list[Arrays]:
        """Training steps with momentum; the losses of each. A model with a trainer takes its own steps."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        if self.trainer is not None:
            with self._policy():
                trainer = self.trainer(self.model)
            return [self.arrays(trainer.step(inputs, targets)) for _ in range(steps)]
        variables = [variable for variable, _ in tf_impl.state.trainable(self.model).values()]
        with self._policy():
            optimiser = keras.optimizers.SGD(learning_rate, momentum=MOMENTUM)
        history = []
        for _ in range(steps):
            with tf.GradientTape() as tape:
                losses = self._losses(inputs, targets, training=True)
            values = tape.gradient(losses["total"], [v.value for v in variables], unconnected_gradients="zero")
            optimiser.apply_gradients(zip(values, variables, strict=True))
            history.append(self.arrays(losses))
        return history

    @contextlib.contextmanager
    def recording(self, names: Collection[str] | None = None):
        """Keep what modules (these, or all) are given and return: name -> float inputs and outputs of every call."""
        calls: dict[str, list] = {}
        wrapped = []

        def wrap(name, layer):
            call = layer.call

            def record(*args, **kwargs):
                result = call(*args, **kwargs)
                calls.setdefault(name, []).append((_floats(args), _floats(result)))
                return result

            object.__setattr__(layer, "call", record)
            wrapped.append(layer)

        for name, layer in tf_impl.state.named_layers(self.model):
            if name and (names is None or name in names) and not any(layer is other for other in wrapped):
                wrap(name, layer)
        try:
            yield calls
        finally:
            for layer in wrapped:
                object.__delattr__(layer, "call")


class TorchFunction(torch.nn.Module):
    """A function of tensors, such as an operator, as a module."""

    def __init__(self, function, options):
        super().__init__()
        self.function, self.options = function, options

    def forward(self, *inputs):
        return self.function(*inputs, **self.options)


class KerasFunction(keras.layers.Layer):
    """The same as a layer."""

    def __init__(self, function, options):
        super().__init__(autocast=False)
        self.function, self.options = function, dict(options)

    def call(self, *inputs, training=False):
        return self.function(*inputs, **self.options)


def _probe(shape, precision: str):
    """A fixed tensor without symmetries; NCHW where there is a choice."""
    size = int(np.prod(shape))
    return torch.from_numpy(np.cos(0.37 * np.arange(size) + 0.5).reshape(tuple(shape)).astype(precision))


def _floats(values) -> list[np.ndarray]:
    """All float tensors of a nested argument, as arrays, in order."""
    if isinstance(values, Mapping):
        return [array for key in sorted(values) for array in _floats(values[key])]
    if isinstance(values, (list, tuple)):
        return [array for value in values for array in _floats(value)]
    if isinstance(values, torch.Tensor):
        return [values.detach().numpy().copy()] if values.is_floating_point() else []
    if isinstance(values, (tf.Tensor, tf.Variable)):
        return [values.numpy()] if values.dtype.is_floating else []
    return []
