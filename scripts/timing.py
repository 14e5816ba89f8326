"""What ``scripts.speed_parts`` times, and how: functions of both panels, of other implementations and of ONNX files."""

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from scripts.answer import ENGINES
from scripts.bench import ratio, spread, timed
from scripts.files import example, twins
from weights import catalog

__all__ = ["FEW_RUNS", "RUNS", "THREADS", "Part", "Twins", "compiled", "eager", "forward", "measured", "training_step"]

THREADS, RUNS, FEW_RUNS = 1, 5, 3  # the last for what takes long
TENSORFLOW, TORCH, TENSORFLOW_FILE, TORCH_FILE = ENGINES


@dataclass(frozen=True)
class Part:
    """What is timed: functions without arguments.

    Args:
        name: of its row.
        torch, tensorflow: of the panels, eager and compiled; None where the host computes.
        other: of another implementation, and the name of its package or repository.
        files: of the panels' ONNX files, by the names in ``ENGINES``.
        matrix: bytes of the distance matrix that the peak of memory is compared with, where it is of interest.
        runs: how many rounds.
    """

    name: str
    torch: Callable
    tensorflow: Callable | None = None
    other: Callable | None = None
    package: str = ""
    files: Mapping[str, Callable] = field(default_factory=dict)
    matrix: int = 0
    runs: int = RUNS


def eager(function: Callable, *tensors) -> Callable:
    """A call without gradients."""
    import torch

    def run():
        with torch.inference_mode():
            return function(*tensors)

    return run


def compiled(function: Callable, *tensors) -> Callable:
    """A call of the graph of a function."""
    import tensorflow as tf

    function = tf.function(function, autograph=False)
    return lambda: function(*tensors)


class Twins:
    """Both panels of a model with equal weights, and their inputs.

    Args:
        name: of the model.
        criterion: whether its losses are needed.
        batch: of the inputs.
        size: height and width of the images, if not the published ones.
        options: of the builder.
    """

    def __init__(
        self,
        name: str,
        criterion: bool = False,
        batch: int = 1,
        size: tuple[int, int] | None = None,
        options: Mapping | None = None,
    ):
        self.entry = catalog.get(name)
        self.inputs = example(self.entry, batch, size)[0]
        panels, _ = twins(self.entry, "seeded", options=options, criterion=criterion)
        self.torch, self.tensorflow = panels["torch"], panels["tensorflow"]

    def part(self, name: str, function: Callable, *arrays: Mapping[str, np.ndarray], **others) -> Part:
        """``function(panel, *tensors by name)`` of both panels."""
        given = {panel: [panel.tensors(x) for x in arrays] for panel in (self.torch, self.tensorflow)}
        return Part(
            name,
            eager(lambda: function(self.torch, *given[self.torch])),
            compiled(lambda: function(self.tensorflow, *given[self.tensorflow])),
            **others,
        )


def forward(panel, inputs: Mapping):
    return panel.call(*inputs.values())


def training_step(name: str, options: Mapping, trainer: Mapping) -> list[Callable]:
    """A whole training step, batch 1, of both panels; TensorFlow's networks run as graphs.

    Args:
        name: of a model with a trainer.
        options: of the builder; with a size, that of the images.
        trainer: options of the trainer.
    """
    from parity_tests.harness.panels import PyTorch, TensorFlow
    from parity_tests.learning.train import compiled as as_graph

    entry = catalog.get(name)
    inputs, rng = example(entry, 1, (options["size"],) * 2 if options else None)[0], np.random.default_rng(0)
    shapes = {key: [1 if n == "N" else n for n in tensor.shape] for key, tensor in entry.targets.items()}
    targets = {key: rng.uniform(-1, 1, shape).astype(np.float32) for key, shape in shapes.items()} | inputs
    steps = []
    for Panel in (PyTorch, TensorFlow):
        panel = Panel(entry, options, trainer=trainer, precision="float32", example=inputs)
        if Panel is TensorFlow:
            for network in panel.model.layers:
                as_graph(network)
        given = panel.tensors(inputs), panel.tensors({key: targets[key] for key in shapes})
        steps.append(functools.partial(panel._trainer().step, *given))
    return steps


def peak(function: Callable) -> int:
    """Most bytes that PyTorch holds at once for the tensors of a call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(change.nbytes() for change in changes))


def measured(part: Part) -> dict:
    """Milliseconds of each, their ratios, and peaks of memory over the distance matrix."""
    functions = {TORCH: part.torch, part.package: part.other, TENSORFLOW: part.tensorflow, **part.files}
    times = timed({name: function for name, function in functions.items() if function is not None}, part.runs)
    found = {"part": part.name, "milliseconds": {name: spread(values) for name, values in times.items()}, "ratios": {}}
    pairs = ((TORCH, part.package), (TENSORFLOW, TORCH), (TORCH_FILE, TORCH), (TENSORFLOW_FILE, TORCH_FILE))
    for ours, theirs in pairs:
        if ours in times and theirs in times:
            found["ratios"][f"{ours} / {theirs}"] = ratio(times[ours], times[theirs])
    if part.matrix:
        peaks = {name: peak(functions[name]) / part.matrix for name in (TORCH, part.package)}
        found["memory"] = {name: float(f"{share:.3g}") for name, share in peaks.items()}
    return found
