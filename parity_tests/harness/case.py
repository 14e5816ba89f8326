"""What a case is: the small configuration of a model, its inputs and targets, and its fingerprints."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from weights import catalog

__all__ = ["SAME_GRAPH", "Case", "Reference", "cases", "get", "images", "labels"]

SAME_GRAPH = dict.fromkeys(("onnx", "results"), "the graph has the operators of the other cases, which are exported")

GRADIENT_NORMS = 1e-3  # bound of the norms of float32 gradients

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A third-party implementation's numbers, and where the same numbers are in our model.

    Args:
        file: name of the fingerprint, without ``.json``.
        options: builder options that give the reference's model; the published one by default.
        modules: fingerprint output -> dotted path of the module whose output it is; "head.conv#2" is the third call
            of a module, "head@1" the second tensor that it returns.
        outputs: fingerprint output -> key of the model's output ("" if it returns one tensor).
        inputs: fingerprint input -> model input, where the names differ.
        given: model inputs that the file describes in words.
        training: the same as ``outputs`` for those that were computed with batch statistics.
        results: fingerprint output -> key of the post-process.
        step: losses and gradients are those of one step of the trainer, which lists its ``gradients`` by name.
        after: the same as ``training`` for outputs after that step, to 1e-2: Adam's first step follows the signs of
            gradients that may be rounding.
        state: fingerprint output -> tensor of the model after that step.
        losses: fingerprint loss term -> key of the criterion; several terms of one key are summed.
        targets: makes the targets from the fingerprint's JSON.
        criterion, postprocess, trainer: options of the criterion, of the post-process and of the trainer.
        weights: changes the seeded weights by name, where the file says that its rule is another one.
        rename: pattern -> replacement, from names of the file to ours, where the reference's names are not those of
            the checkpoints.
        bound: relative L2 of everything but gradient norms, with a reason if it is not the usual one.
        gradient_bound: relative L2 of gradient norms: in float32 rounding decides on which side of zero a ReLU falls.
        skip: loss gradients that are not compared, with the reason in ``reason``.
    """

    file: str
    options: Mapping = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    step: bool = False
    after: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    targets: Callable[[dict], Arrays] | None = None
    criterion: Mapping = field(default_factory=dict)
    postprocess: Mapping | None = None
    trainer: Mapping | None = None
    weights: Callable[[Arrays], Arrays] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    bound: float = 1e-4
    gradient_bound: float = GRADIENT_NORMS
    skip: Sequence[str] = ()
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """A small configuration of one model, on which every level of the proof is measured.

    Args:
        model: name in the catalogue.
        inputs: makes the inputs of a batch: ``(rng, batch) -> arrays``, maps as NCHW.
        targets: the same for the criterion's targets, or None if there is no criterion.
        options: builder options of the small configuration.
        criterion, postprocess, trainer: options of the criterion, of the post-process and of the trainer.
        variant: tells several cases of one model apart.
        learning_rate: of the three training steps; a power of two, exact in every precision.
        dynamic: names of dynamic axes in the ONNX file, by input or target; the batch alone by default.
        references: fingerprints of third-party implementations.
        bounds: level -> (bound, why it is wider than the usual one).
        without: level -> why it does not apply.
    """

    model: str
    inputs: Callable[[np.random.Generator, int], Arrays]
    targets: Callable[[np.random.Generator, int], Arrays] | None = None
    options: Mapping = field(default_factory=dict)
    criterion: Mapping = field(default_factory=dict)
    postprocess: Mapping = field(default_factory=dict)
    trainer: Mapping = field(default_factory=dict)
    variant: str = ""
    learning_rate: float = 2.0**-7
    dynamic: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    references: Sequence[Reference] = ()
    bounds: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}-{self.variant}" if self.variant else self.model

    @property
    def entry(self) -> catalog.Model:
        return catalog.get(self.model)


def images(height: int, width: int, channels: int = 3, name: str = "images"):
    """Input maker of one batch of images: normal noise, float64, NCHW."""

    def make(rng: np.random.Generator, batch: int) -> Arrays:
        return {name: rng.standard_normal((batch, channels, height, width))}

    return make


def labels(classes: int):
    """Target maker of class indices; from a batch of three on, the last row is ignored."""

    def make(rng: np.random.Generator, batch: int) -> Arrays:
        values = rng.integers(0, classes, batch)
        if batch > 2:
            values[-1] = -100
        return {"labels": values}

    return make


@cache
def cases() -> dict[str, Case]:
    """All cases by name: family by family, in the order of the files and in the files."""
    found: dict[str, Case] = {}
    for module in modules():
        for case in importlib.import_module(module).CASES:
            if case.name in found:
                raise ValueError(f"{module}: the case {case.name!r} is there twice")
            found[case.name] = case
    return found


def modules() -> list[str]:
    """The modules that define cases: ``cases/<family>/<system>.py``."""
    import parity_tests.cases

    paths = (path for folder in parity_tests.cases.__path__ for path in Path(folder).glob("*/[a-z]*.py"))
    return [f"parity_tests.cases.{path.parent.name}.{path.stem}" for path in sorted(paths, key=lambda p: p.parts[-2:])]


def get(name: str) -> list[Case]:
    """The cases of a model, or the one case of that name."""
    found = [case for case in cases().values() if name in (case.model, case.name)]
    return found or [case for case in cases().values() if case.model == catalog.get(name).name]
