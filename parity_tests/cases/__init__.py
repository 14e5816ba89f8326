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

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """A third-party implementation's numbers, and where the same numbers are in our model.

    Args:
        file: name of the fingerprint, without ``.json``.
        options: builder options that give the reference's model; the published one by default.
        modules: fingerprint output -> dotted path of the module whose output it is.
        outputs: fingerprint output -> key of the model's output ("" if it returns one tensor).
        inputs: fingerprint input -> model input, where the names differ.
        training: the same for outputs that were computed with batch statistics.
        losses: fingerprint loss term -> key of the criterion.
        targets: makes the targets from the fingerprint's JSON.
        criterion: options of the criterion.
        gradient_bound: relative L2 of gradient norms, with a reason if it is not that of everything else.
    """

    file: str
    options: Mapping = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    targets: Callable[[dict], Arrays] | None = None
    criterion: Mapping = field(default_factory=dict)
    gradient_bound: float = 1e-4
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """A small configuration of one model, on which every level of the proof is measured.

    Args:
        model: name in the catalogue.
        inputs: makes the inputs of a batch: ``(rng, batch) -> arrays``, maps as NCHW.
        targets: the same for the criterion's targets, or None if there is no criterion.
        options: builder options of the small configuration.
        criterion, postprocess: options of the criterion and of the post-process.
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
    """All cases by name, in the order of the files and in the files."""
    found: dict[str, Case] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        for case in importlib.import_module(f"parity_tests.cases.{path.stem}").CASES:
            if case.name in found:
                raise ValueError(f"{path.name}: the case {case.name!r} is there twice")
            found[case.name] = case
    return found


def get(name: str) -> list[Case]:
    """The cases of a model, or the one case of that name."""
    found = [case for case in cases().values() if name in (case.model, case.name)]
    return found or [case for case in cases().values() if case.model == catalog.get(name).name]
