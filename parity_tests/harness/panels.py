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
from parity_tests.harness import vocabulary
from weights import catalog, onnx_file

__all__ = ["PyTorch", "TensorFlow", "channels_last", "seed"]

MOMENTUM = 0.5  # of the proof's optimiser; exact in every precision

Arrays = dict[str, np.ndarray]


def _cast(array: np.ndarray, precision: str) -> np.ndarray:
    return array.astype(precision) if array.dtype.kind == "f" else array


class Panel:
    """One framework's model, with its criterion and post-process.

    The criterion's tensors are listed, loaded and trained with the model's, under ``criterion.``. A catalogue entry of
    kind "loss" has no model: its inputs are what the criterion is given for outputs.

    Args:
        entry: the model's table in the catalogue.
        options: builder options.
        criterion: options of the criterion.
        postprocess: options of the post-process.
        trainer: options of the trainer.
        precision: "float64" or "float32".
        example: inputs by name, from whose shapes Keras makes its variables; of the catalogue's shapes by default.
    """

    package = ""  # and ``export_forms``, of the framework's export module

    def __init__(
        self,
        entry: catalog.Model,
        options: Mapping,
        criterion: Mapping | None = None,
        postprocess: Mapping | None = None,
        precision: str = "float64",
        trainer: Mapping | None = None,
        example: Arrays | None = None,
    ):
        self.entry, self.precision = entry, precision
        self.layouts = {
            name: tensor.layout
            for tensors in (entry.inputs, entry.outputs, entry.targets)
            for name, tensor in tensors.items()
            if tensor.layout
        }
        module = importlib.import_module(f"{self.package}.{entry.module}")
        with self._policy():
            builder, options = self._spoken(module, {**entry.options, **options})
            if entry.kind == "loss":
                self.model, self.criterion = self._place(self._identity()), self._place(builder(**options))
            else:
                self.model = self._build(builder, options, example)
                self.criterion = self._part(module, entry.criterion, criterion)
            self.postprocess = self._part(module, entry.postprocess, postprocess)
            self.trainer = getattr(module, entry.trainer) if entry.trainer else None
        self.trainer_options = dict(trainer or {})

    def _spoken(self, module, options: Mapping):
        """The builder and its options in the words of the framework; operators' layers have their own words."""
        return getattr(module, self.entry.builder), options

    def _part(self, module, name, options):
        return None if name is None else self._place(getattr(module, name)(**(options or {})))

    @property
    def call(self):
        """What is called: the model, or the method that its entry names."""
        return getattr(self.model, self.entry.call) if self.entry.call else self.model

    @property
    def returned(self) -> list[str]:
        """Names of what the model returns if it is a tensor or a list of them."""
        return list(self.entry.outputs) or ["output"]

    def players(self) -> dict[str, catalog.Player]:
        """Who lowers which loss; without players, one that lowers the total loss with all parameters."""
        return dict(self.entry.players) or {"": catalog.Player("total", ("",))}

    def export(
        self,
        path: Path,
        inputs: Arrays,
        targets: Arrays | None,
        dynamic: Mapping,
        results: bool = False,
        half: bool = False,
        dynamic_size: bool = False,
    ):
        """ONNX; with targets, of model and criterion; with ``results``, of model and post-process."""
        form = "losses" if targets is not None else "results" if results else "model"
        return self.export_all({form: path}, inputs, targets or {}, dynamic, half, dynamic_size)[form]

    def export_all(
        self,
        paths: Mapping[str, Path],
        inputs: Arrays,
        targets: Arrays,
        dynamic: Mapping,
        half: bool = False,
        dynamic_size: bool = False,
    ):
        """ONNX files of several variants ("model", "losses", "results") from one trace."""
        return self.export_forms(
            self.model,
            paths,
            {name: _cast(array, "float32") for name, array in inputs.items()},
            layouts=self.layouts,
            outputs=self.returned,
            dynamic=dynamic,
            criterion=self.criterion,
            targets={name: _cast(array, "float32") for name, array in targets.items()},
            postprocess=self.postprocess,
            call=self.entry.call,
            needs_targets="targets" in self.entry.needs,
            dynamic_size=dynamic_size,
            metadata={"model": self.entry.name},
            half=half,
        )

    def step(self, inputs: Arrays, targets: Arrays) -> tuple[Arrays, dict[str, float]]:
        """One step of the trainer: its losses, and the norms of its gradients by name."""
        trainer = self._trainer()
        losses = self.arrays(trainer.step(self.tensors(inputs), self.tensors(targets)))
        return losses, {name: float(np.linalg.norm(np.asarray(g, np.float64))) for name, g in trainer.gradients.items()}

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

    def _identity(self):
        return TorchFunction(lambda *values: dict(zip(self.entry.inputs, values, strict=True)), {})

    def _build(self, builder, options, example):
        if inspect.isclass(builder) or self.entry.kind == "model":
            return self._place(builder(**options))
        return TorchFunction(builder, options)

    def _tensors(self) -> dict:
        """Parameters and buffers of the model, then those of the criterion."""
        found = self.model.state_dict(keep_vars=True)
        own = self.criterion.state_dict(keep_vars=True) if self.criterion is not None else {}
        return {**found, **{f"criterion.{name}": tensor for name, tensor in own.items()}}

    def trainable(self) -> dict:
        """Parameters of model and criterion by name."""
        parameters = list(self.model.named_parameters())
        if self.criterion is not None:
            parameters += [(f"criterion.{name}", p) for name, p in self.criterion.named_parameters()]
        return {name: p for name, p in parameters if p.requires_grad}

    def tensors(self, arrays: Arrays) -> dict:
        return {name: torch.from_numpy(np.array(_cast(array, self.precision))) for name, array in arrays.items()}

    def arrays(self, tensors: Mapping) -> Arrays:
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

    def shapes(self) -> dict[str, tuple]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}

    def aliases(self) -> dict[str, str]:
        """Names of tensors that the model holds under another name already -> that name."""
        first, found = {}, {}
        for name, tensor in self._tensors().items():
            if first.setdefault(id(tensor), name) != name:
                found[name] = first[id(tensor)]
        return found

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def load(self, tensors: Arrays, strict: bool = True):
        own, of_criterion = _split(tensors)
        torch_impl.state.load_state_dict(self.model, own, strict=strict)
        if self.criterion is not None:
            torch_impl.state.load_state_dict(self.criterion, of_criterion, strict=strict)

    def state(self) -> Arrays:
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self._tensors().items()}

    def outputs(self, inputs: Arrays, training: bool = False) -> Arrays:
        before = self.state() if training else None
        self.model.train(training)
        with torch.no_grad():
            found = self.arrays(self.named(self.call(*self.tensors(inputs).values())))
        self.model.eval()
        if training:  # the running statistics moved
            self.load(before)
        return found

    def results(self, inputs: Arrays) -> Arrays:
        inputs = self.tensors(inputs)
        with torch.no_grad():
            return self.arrays(
                torch_impl.export.apply_postprocess(
                    self.postprocess, self.call(*inputs.values()), list(inputs.values())
                )
            )

    def _trainer(self):
        return self.trainer(self.model.train(), self.criterion, **self.trainer_options)

    def _losses(self, inputs, targets):
        needed = {"targets": targets} if "targets" in self.entry.needs else {}
        outputs = self.call(*inputs.values(), **needed)
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
        """Of each player's loss, for every parameter of its, and for float inputs if asked (``input.<name>``)."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        for tensor in inputs.values():
            tensor.requires_grad_(wrt_inputs and tensor.is_floating_point())
        with torch.enable_grad():
            losses = self._losses(inputs, targets)
        given = {f"input.{name}": x for name, x in inputs.items() if x.requires_grad}
        found = {}
        for player in self.players().values():
            wanted = {name: p for name, p in self.trainable().items() if name.startswith(player.parameters)} | given
            sources = list(wanted.values())
            values = torch.autograd.grad(losses[player.loss], sources, allow_unused=True, retain_graph=True)
            found |= {
                name: np.zeros(tuple(p.shape)) if value is None else value.numpy()
                for (name, p), value in zip(wanted.items(), values, strict=True)
            }
        return found

    def train(self, inputs: Arrays, targets: Arrays, learning_rate: float, steps: int = 3) -> list[Arrays]:
        """Training steps with momentum; the losses of each. A model with a trainer takes its own steps."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        self.model.train()
        if self.trainer is not None:
            trainer = self._trainer()
            history = [self.arrays(trainer.step(inputs, targets)) for _ in range(steps)]
        else:
            optimiser = torch.optim.SGD(self.trainable().values(), lr=learning_rate, momentum=MOMENTUM)
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

    def _spoken(self, module, options):
        if self.entry.kind != "operator":
            return super()._spoken(module, options)
        builder = getattr(module, vocabulary.CLASSES.get(self.entry.builder, self.entry.builder))
        return builder, vocabulary.to_keras(builder, options) if isinstance(builder, type) else options

    def _identity(self):
        return KerasFunction(lambda *values: dict(zip(self.entry.inputs, values, strict=True)), {})

    def _build(self, builder, options, example):
        if not (inspect.isclass(builder) or self.entry.kind == "model"):
            return KerasFunction(builder, options)
        given = self.tensors(example or {name: _zeros(tensor) for name, tensor in self.entry.inputs.items()})
        model = builder(**options)
        if self.entry.call:
            getattr(model, self.entry.call)(*given.values(), training=False)
        return tf_impl.state.build(model, None if self.entry.call else given)

    def _moved(self, name, value, back: bool = False) -> tuple[int, ...] | None:
        """The order of axes that moves the channels of a tensor to the end, or back; None without a layout."""
        layout = self.layouts.get(name)
        if layout is None or len(value.shape) != len(layout):
            return None
        axes = channels_last(layout)
        return tuple(np.argsort(axes)) if back else axes

    def _variables(self) -> dict:
        """Variables of the model by PyTorch's names, then those of the criterion."""
        found = tf_impl.state.variables(self.model)
        own = tf_impl.state.variables(self.criterion) if self.criterion is not None else {}
        return {**found, **{f"criterion.{name}": value for name, value in own.items()}}

    def trainable(self) -> dict:
        found = tf_impl.state.trainable(self.model)
        own = tf_impl.state.trainable(self.criterion) if self.criterion is not None else {}
        return {**found, **{f"criterion.{name}": value for name, value in own.items()}}

    def tensors(self, arrays: Arrays) -> dict:
        return {
            name: tf.constant(_cast(_turned(a, self._moved(name, a)), self.precision)) for name, a in arrays.items()
        }

    def arrays(self, tensors: Mapping) -> Arrays:
        return {name: _turned(np.asarray(x), self._moved(name, x, back=True)) for name, x in tensors.items()}

    def shapes(self) -> dict[str, tuple]:
        shapes = {name: (tuple(variable.shape), axes) for name, (variable, axes) in self._variables().items()}
        return {
            name: shape if axes is None else tuple(shape[i] for i in axes) for name, (shape, axes) in shapes.items()
        }

    def aliases(self) -> dict[str, str]:
        first, found = {}, {}
        for name, (variable, _) in self._variables().items():
            if first.setdefault(id(variable), name) != name:
                found[name] = first[id(variable)]
        return found

    def load(self, tensors: Arrays, strict: bool = True):
        own, of_criterion = _split(tensors)
        tf_impl.state.load_state_dict(self.model, own, strict=strict)
        if self.criterion is not None:
            tf_impl.state.load_state_dict(self.criterion, of_criterion, strict=strict)

    def state(self) -> Arrays:
        return {name: tf_impl.state.to_torch(v.numpy(), axes) for name, (v, axes) in self._variables().items()}

    def outputs(self, inputs: Arrays, training: bool = False) -> Arrays:
        before = self.state() if training else None
        found = self.arrays(self.named(self.call(*self.tensors(inputs).values(), training=training)))
        if training:
            self.load(before)
        return found

    def results(self, inputs: Arrays) -> Arrays:
        inputs = self.tensors(inputs)
        return self.arrays(
            tf_impl.export.apply_postprocess(
                self.postprocess, self.call(*inputs.values(), training=False), list(inputs.values())
            )
        )

    def _trainer(self):
        with self._policy():
            return self.trainer(self.model, self.criterion, **self.trainer_options)

    def _losses(self, inputs, targets, training=False):
        needed = {"targets": targets} if "targets" in self.entry.needs else {}
        outputs = self.call(*inputs.values(), **needed, training=training)
        if self.criterion is not None:
            return self.criterion(outputs, targets)
        total = 0
        for name, y in self.named(outputs).items():
            if y.dtype.is_floating:
                back, axes = self._moved(name, y, back=True), self._moved(name, y)
                probe = _probe([y.shape[i] for i in back] if back else y.shape, self.precision).numpy()
                total += tf.reduce_sum(_turned(probe, axes) * y)
        return {"total": total}

    def losses(self, inputs: Arrays, targets: Arrays) -> Arrays:
        return self.arrays(self._losses(self.tensors(inputs), self.tensors(targets)))

    def gradients(self, inputs: Arrays, targets: Arrays, wrt_inputs: bool = False) -> Arrays:
        """Of each player's loss, for every parameter of its, and for float inputs if asked (``input.<name>``)."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        given = {name: x for name, x in inputs.items() if wrt_inputs and x.dtype.is_floating}
        with tf.GradientTape(persistent=True) as tape:
            for x in given.values():
                tape.watch(x)
            losses = self._losses(inputs, targets)
        found = {}
        for player in self.players().values():
            wanted = {name: v for name, v in self.trainable().items() if name.startswith(player.parameters)}
            sources = [variable.value for variable, _ in wanted.values()] + list(given.values())
            values = tape.gradient(losses[player.loss], sources, unconnected_gradients="zero")
            values = [tf.convert_to_tensor(value).numpy() for value in values]  # embeddings have sparse gradients
            found |= {
                name: tf_impl.state.to_torch(value, axes)
                for (name, (_, axes)), value in zip(wanted.items(), values[: len(wanted)], strict=True)
            }
            found |= {
                f"input.{name}": _turned(value, self._moved(name, value, back=True))
                for name, value in zip(given, values[len(wanted) :], strict=True)
            }
        return found

    def train(self, inputs: Arrays, targets: Arrays, learning_rate: float, steps: int = 3) -> list[Arrays]:
        """Training steps with momentum; the losses of each. A model with a trainer takes its own steps."""
        inputs, targets = self.tensors(inputs), self.tensors(targets)
        if self.trainer is not None:
            trainer = self._trainer()
            return [self.arrays(trainer.step(inputs, targets)) for _ in range(steps)]
        variables = [variable for variable, _ in self.trainable().values()]
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


def seed(number: int) -> None:
    """Start the generators of both frameworks."""
    keras.utils.set_random_seed(number)
    torch.manual_seed(number)


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


def channels_last(layout: str) -> tuple[int, ...]:
    """The order of a layout's axes with C at the end: (0, 2, 3, 1) for "NCHW"."""
    return (*(i for i, letter in enumerate(layout) if letter != "C"), layout.index("C"))


def _turned(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    return array if axes is None else array.transpose(axes)


def _zeros(tensor: catalog.Tensor) -> np.ndarray:
    """An array of a catalogue's shape; a dynamic axis has one entry."""
    return np.zeros([n if isinstance(n, int) else 1 for n in tensor.shape], tensor.dtype)


def _split(tensors: Arrays) -> tuple[Arrays, Arrays]:
    """The tensors of a model, and those of its criterion without their prefix."""
    prefix = "criterion."
    own = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    return own, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
