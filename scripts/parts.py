"""Networks that run part by part, with the steps between the parts on the host: trackers, animation, surfaces."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.answer import engines
from scripts.files import PANELS, built, export_files, fill
from weights import catalog

__all__ = ["Part", "options_of"]

Arrays = dict[str, np.ndarray]


class Part:
    """A part of a network in four engines, exported for each size of its inputs that occurs.

    Args:
        entry: of the catalogue; its ``call`` may be a method of the whole model.
        options: of its builder.
        state: tensors by name, among them its own.
        source: their origin, for messages.
        folder: of the ONNX files.
        dynamic: names of dynamic axes by input, where it is not just the first of each.

    Raises:
        Problem: if tensors are missing or have other shapes.
    """

    def __init__(
        self,
        entry: catalog.Model,
        options: Mapping,
        state: Mapping,
        source: str,
        folder: Path,
        dynamic: Mapping[str, Sequence[str | None]] | None = None,
    ):
        self.entry, self.options, self.state, self.source, self.folder = entry, options, state, source, folder
        self.dynamic = dynamic or {}
        self.panels: dict = {}
        self.files: dict[str, str] = {}
        self.functions: dict[tuple, dict[str, Callable[[Arrays], Arrays]]] = {}

    def __call__(self, engine: str, feed: Arrays) -> Arrays:
        """The outputs of an engine; ONNX files have them in another order."""
        sizes = tuple(array.shape[1:] for array in feed.values())
        if sizes not in self.functions:
            self.functions[sizes] = self._prepared(feed)
        return self.functions[sizes][engine](feed)

    def _prepared(self, feed: Arrays) -> dict[str, Callable]:
        import torch

        import parity_tests.harness.panels as harness

        whole = {name for name, axes in self.dynamic.items() if axes[0] is None}
        examples = {name: array if name in whole else np.concatenate([array] * 2) for name, array in feed.items()}
        if not self.panels:
            for name, kind in PANELS.items():
                panel = built(getattr(harness, kind), self.entry, None, self.options, examples)
                fill(panel, {key: self.state[key] for key in panel.shapes() if key in self.state}, self.source)
                self.panels[name] = panel
        number = str(len(self.functions))
        files = export_files(self.panels, self.folder / self.entry.name / number, examples, None, self.dynamic)
        self.files |= {f"{self.entry.name} {number} {name}": str(path) for name, path in files.items()}
        functions = engines(self.entry, self.panels, files, torch.get_num_threads())
        for function in functions.values():  # the first run traces and warms up
            function(feed)
        return functions


def options_of(entry: catalog.Model, options: Mapping) -> dict:
    """Those of the whole model's options that a part also has."""
    builder = inspect.signature(getattr(importlib.import_module(f"torch_impl.{entry.module}"), entry.builder))
    known = {**builder.parameters, **inspect.signature(builder.return_annotation).parameters}
    return {name: value for name, value in options.items() if name in known}
