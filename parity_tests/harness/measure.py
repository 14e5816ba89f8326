"""The proof: every level measured on one case, with the numbers that tests, command line and report all show.

Fresh initial values are compared by their mean and deviation, in standard errors. Any other figure is the relative L2
difference |a - b| / max(|b|, floor); the largest absolute difference is given with it. The floor is 0 for outputs and
losses, and for gradients 1e-6 of the model's largest one. NaN or infinity on either side,
another shape, or a name on one side only is an infinite figure.
"""

import gc
import json
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, Reference
from parity_tests.harness.panels import PyTorch, TensorFlow, seed
from weights import onnx_file
from weights.seeded import seeded

__all__ = ["BOUNDS", "LEVELS", "Figure", "Level", "Proof", "compare", "first_divergence"]

BOUNDS = {
    "interface": 0.0,
    "initial": 5.0,  # standard errors
    "outputs": 1e-10,
    "losses": 1e-10,
    "gradients": 1e-9,
    "training": 1e-8,
    "onnx": 1e-5,
    "results": 1e-5,
    "reference": 1e-4,
}
LEVELS = tuple(BOUNDS)

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Figure:
    """One comparison: what was compared, and by how much it differs."""

    name: str
    relative: float
    absolute: float = 0.0


@dataclass(frozen=True)
class Level:
    """One level of the proof of one case."""

    case: str
    level: str
    bound: float
    figures: list[Figure]
    seconds: float = 0.0
    reason: str = ""  # why the bound is wider, or why the level does not apply
    details: dict = field(default_factory=dict)

    @property
    def applies(self) -> bool:
        return bool(self.figures)

    @property
    def worst(self) -> Figure:
        return max(self.figures, key=lambda figure: figure.relative, default=Figure("", 0.0))

    @property
    def holds(self) -> bool:
        return all(figure.relative <= self.bound for figure in self.figures)

    def broken(self) -> list[Figure]:
        """The figures beyond the bound, worst first."""
        return sorted((f for f in self.figures if not f.relative <= self.bound), key=lambda f: -f.relative)

    def as_dict(self) -> dict:
        """For JSON; infinity becomes null."""
        found = asdict(self) | {"holds": self.holds, "worst": asdict(self.worst)}
        return json.loads(json.dumps(found).replace("Infinity", "null").replace("NaN", "null"))


def compare(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], prefix: str = "", floor: float = 0.0
) -> list[Figure]:
    """Figures of two sets of arrays by name; integers must be equal."""
    figures = []
    for name in dict.fromkeys([*a, *b]):
        label = f"{prefix}{name}"
        if name not in a or name not in b:
            figures.append(Figure(f"{label} ({'second' if name in a else 'first'} side lacks it)", np.inf, np.inf))
            continue
        x, y = np.asarray(a[name]), np.asarray(b[name])
        relative = onnx_file.relative(x, y, floor)
        absolute = float(np.abs(x.astype(np.float64) - y).max(initial=0.0)) if x.shape == y.shape else np.inf
        if y.dtype.kind not in "fc" and absolute:
            relative = np.inf
        figures.append(Figure(label, relative, absolute))
    return figures


def first_divergence(a: Mapping[str, list], b: Mapping[str, list], bound: float) -> list[dict]:
    """Compare recorded modules in execution order.

    Args:
        a, b: what the panels' ``record`` returns (TensorFlow, PyTorch); maps are NHWC on the first side.
        bound: relative L2 from which a module counts as diverging.

    Returns:
        One entry per module that both sides have: name, ``input`` and ``output`` figures (None without floats), and
        ``diverges``: "", "input" (something before the module, outside any other, differs) or "output" (it does).
    """
    rows = []
    for name in (name for name in b if name in a):
        row = {"module": name, "input": None, "output": None, "diverges": ""}
        for (given_a, result_a), (given_b, result_b) in zip(a[name], b[name], strict=False):
            for key, values in (("input", (given_a, given_b)), ("output", (result_a, result_b))):
                for x, y in zip(*values, strict=False):
                    figure = onnx_file.relative(_as_nchw(x, y), y)
                    row[key] = figure if row[key] is None else max(row[key], figure)
        if row["input"] is not None and not row["input"] <= bound:
            row["diverges"] = "input"
        elif row["output"] is not None and not row["output"] <= bound:
            row["diverges"] = "output"
        rows.append(row)
    return rows


def _as_nchw(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A recorded tensor of the Keras panel as the other panel has it; where both fit, the one that differs less."""
    if x.ndim != 4 or x.transpose(0, 3, 1, 2).shape != y.shape:
        return x
    moved = x.transpose(0, 3, 1, 2)
    return moved if x.shape != y.shape or onnx_file.relative(moved, y) <= onnx_file.relative(x, y) else x


class Proof:
    """All levels of one case. Twins are built once per precision and shared between levels.

    Args:
        case: the case.
    """

    def __init__(self, case: Case):
        self.case = case
        self.entry = case.entry

    def arrays(self, batch: int = 2, seed: int = 0) -> tuple[Arrays, Arrays]:
        """Seeded inputs and targets of one batch."""
        rng = np.random.default_rng(seed)
        inputs = self.case.inputs(rng, batch)
        targets = self.case.targets(rng, batch) if self.case.targets else {}
        return inputs, {name: inputs.get(name, value) for name, value in targets.items()}

    def twins(self, precision: str) -> tuple[TensorFlow, PyTorch]:
        """Both panels' models with the same seeded weights."""
        return self._twins64 if precision == "float64" else self._twins32

    @cached_property
    def _twins64(self):
        return self._build("float64")

    @cached_property
    def _twins32(self):
        return self._build("float32")

    def _build(self, precision, reference: Reference | None = None, example: Arrays | None = None):
        case = reference or self.case
        postprocess = self.case.postprocess if case.postprocess is None else case.postprocess
        example = self.arrays()[0] if example is None else example
        trainer = self.case.trainer if case.trainer is None else case.trainer
        seed(0)
        twins = tuple(
            panel(self.entry, case.options, case.criterion, postprocess, precision, trainer, example)
            for panel in (TensorFlow, PyTorch)
        )
        if reference is None and precision == "float32":
            self.initial = tuple(panel.state() for panel in twins)
        self.reset(twins, reference and reference.weights)
        return twins

    def reset(self, twins, change=None) -> None:
        """Give both the seeded weights; names that are not in both are left for the interface level to report."""
        shapes = twins[1].shapes()
        values = seeded(shapes, aliases=twins[1].aliases())
        values = change(values) if change else values
        twins[1].load(values, strict=False)
        keras_shapes = twins[0].shapes()
        twins[0].load({n: v for n, v in values.items() if keras_shapes.get(n) == v.shape}, strict=False)

    def level(self, name: str) -> Level:
        """Measure one level.

        Raises:
            KeyError: if there is no such level.
        """
        if name not in BOUNDS:
            raise KeyError(f"no level {name!r}; there are {', '.join(LEVELS)}")
        bound, reason = self.case.bounds.get(name, (BOUNDS[name], ""))
        if name in self.case.without:
            return Level(self.case.name, name, bound, [], reason=self.case.without[name])
        start = time.perf_counter()
        details: dict = {}
        gc.disable()  # the exporters make millions of objects; to look for garbage among them takes a third of the time
        try:
            figures = getattr(self, f"_{name}")(details)
        finally:
            gc.enable()
        return Level(self.case.name, name, bound, figures, time.perf_counter() - start, reason, details)

    @property
    def _has_losses(self) -> bool:
        return self.entry.criterion is not None or self.entry.kind == "loss"

    def levels(self, names: Iterable[str] = LEVELS) -> Iterable[Level]:
        """Measure several levels, one after the other."""
        for name in names:
            yield self.level(name)

    def _interface(self, details):
        tensorflow, torch = self.twins("float64")
        a, b = tensorflow.shapes(), torch.shapes()
        figures = [Figure("tensors by name and shape", 0.0 if a == b else np.inf)]
        figures += [
            Figure(f"{name}: {a.get(name, 'missing')} in TensorFlow, {b.get(name, 'missing')} in PyTorch", np.inf)
            for name in sorted(set(a) | set(b))
            if a.get(name) != b.get(name)
        ]
        order = list(a) == list(b)
        figures.append(Figure("order of the tensors", 0.0 if order else np.inf))
        details["parameters"] = torch.parameters()
        return figures

    def _initial(self, details):
        self.twins("float32")
        a, b = self.initial
        return [Figure(name, _standard_errors(a[name], b[name])) for name in b if name in a]

    def _outputs(self, details):
        tensorflow, torch = self.twins("float64")
        inputs, _ = self.arrays()
        figures = compare(tensorflow.outputs(inputs), torch.outputs(inputs), "eval.")
        return figures + compare(tensorflow.outputs(inputs, True), torch.outputs(inputs, True), "train.")

    def _losses(self, details):
        if not self._has_losses:
            return []
        tensorflow, torch = self.twins("float64")
        return compare(tensorflow.losses(*self.arrays()), torch.losses(*self.arrays()))

    def _gradients(self, details):
        tensorflow, torch = self.twins("float64")
        of_inputs = self.entry.kind in ("operator", "loss")
        a = tensorflow.gradients(*self.arrays(), of_inputs)
        b = torch.gradients(*self.arrays(), of_inputs)
        largest = max((np.linalg.norm(value) for value in b.values()), default=0.0)
        details["largest"] = float(largest)
        return compare(a, b, floor=1e-6 * largest)

    def _training(self, details):
        twins = self.twins("float64")
        if not twins[1].trainable() and not twins[1].trainer:
            return []
        histories = [panel.train(*self.arrays(), self.case.learning_rate) for panel in twins]
        figures = [
            figure
            for i, (a, b) in enumerate(zip(*histories, strict=True), start=1)
            for figure in compare(a, b, f"step {i}: ")
        ]
        details["losses"] = [float(losses["total"]) for losses in histories[1]]
        figures += compare(twins[0].state(), twins[1].state(), "after: ")
        self.reset(twins)
        return figures

    @cached_property
    def files(self) -> dict[str, dict[str, bytes]]:
        """Variant -> panel -> ONNX file; all variants of a panel come from one trace."""
        forms = ["model"] if self.entry.kind != "loss" else []
        forms += ["losses"] if self._has_losses else []
        forms += ["results"] if self.entry.postprocess is not None else []
        inputs, targets = self.arrays()
        files: dict[str, dict[str, bytes]] = {form: {} for form in forms}
        with tempfile.TemporaryDirectory() as folder:
            for panel in self.twins("float32"):
                paths = {form: Path(folder) / f"{form}.onnx" for form in forms}
                for form, path in panel.export_all(paths, inputs, targets, self.case.dynamic).items():
                    files[form][panel.package] = path.read_bytes()
        return files

    def _onnx(self, details):
        figures = []
        for form, files in self.files.items():
            if form != "results":
                figures += self._onnx_figures(form, files, details)
        return figures

    def _onnx_figures(self, form, files, details):
        import onnx

        twins, with_loss = self.twins("float32"), form == "losses"
        protos = [onnx.load_from_string(file) for file in files.values()]
        signatures = [_signature(proto) for proto in protos]
        figures = [Figure(f"{form}: equal signatures", 0.0 if signatures[0] == signatures[1] else np.inf)]
        details[form] = {
            panel.package: {
                "nodes": sum(onnx_file.histogram(proto).values()),
                "operators": dict(sorted(onnx_file.histogram(proto).items())),
                "transposes": len(onnx_file.stray_transposes(proto)),
                "bytes": len(file),
            }
            for panel, proto, file in zip(twins, protos, files.values(), strict=True)
        }
        if signatures[0] != signatures[1]:
            details[form]["signatures"] = [str(signature) for signature in signatures]
        sessions = {
            optimise: [onnx_file.session(file, optimise, threads=1) for file in files.values()]
            for optimise in (False, True)
        }
        for batch in (2, 3):
            inputs, targets = self.arrays(batch, seed=batch)
            feed = {name: _float32(value) for name, value in {**inputs, **(targets if with_loss else {})}.items()}
            own = [panel.losses(inputs, targets) if with_loss else panel.outputs(inputs) for panel in twins]
            for optimise, pair in sessions.items():
                found = [onnx_file.run(session, feed) for session in pair]
                label = f"{form}: batch {batch}, {'optimised' if optimise else 'as exported'}, "
                for panel, values, expected in zip(twins, found, own, strict=True):
                    figures += compare(values, expected, f"{label}{panel.package} file against its framework: ")
                figures += compare(found[0], found[1], f"{label}file against file: ")
        return figures

    def _results(self, details):
        if self.entry.postprocess is None:
            return []
        twins = self.twins("float32")
        inputs, _ = self.arrays()
        a, b = (panel.results(inputs) for panel in twins)
        figures = compare(a, b, "eager: ")
        feed = {name: _float32(value) for name, value in inputs.items()}
        for package, file in self.files["results"].items():
            found = onnx_file.run(onnx_file.session(file, threads=1), feed)
            figures += compare(found, b, f"{package} file: ")
        return figures

    def _reference(self, details):
        figures = []
        for reference in self.case.references:
            measured = self._against(reference)
            figures += [Figure(f"{reference.file}: {f.name}", f.relative, f.absolute) for f in measured]
        return figures

    def _against(self, reference: Reference) -> list[Figure]:
        expected = fingerprints.load(reference.file)
        inputs = self._renamed(reference, fingerprints.inputs_of(expected))
        figures = []
        for panel in self._build("float32", reference, inputs):
            figures += self._reference_tensors(panel, reference, expected)
            for theirs, found in self._sampled(panel, reference, inputs).items():
                described = expected["outputs"][theirs]
                if found.ndim == 4 and list(found.shape) != described["shape"]:
                    found = found.transpose(0, 3, 1, 2)  # a recorded map of the Keras panel
                figures += compare_with_fingerprint(f"{panel.package}: {theirs}", found, described)
            # figures are scaled to the bound of the level
            figures = [Figure(f.name, f.relative * BOUNDS["reference"] / reference.bound, f.absolute) for f in figures]
            if reference.losses:
                figures += self._reference_losses(panel, reference, expected)
        return figures

    def _reference_tensors(self, panel, reference, expected) -> list[Figure]:
        """Names and shapes, and the number of parameters, which are those of the model without its criterion."""
        shapes = {name: shape for name, shape in panel.shapes().items() if not name.startswith("criterion.")}
        theirs = {tensor: tuple(shape) for tensor, shape in expected["tensors"]}
        for pattern, replacement in reference.rename.items():
            theirs = {re.sub(pattern, replacement, name): shape for name, shape in theirs.items()}
        figures = [
            Figure(f"{panel.package}: {name} is {shapes.get(name)}, {theirs.get(name)} expected", np.inf)
            for name in sorted(shapes.keys() | theirs.keys())
            if shapes.get(name) != theirs.get(name)
        ]
        figures = figures or [Figure(f"{panel.package}: names and shapes of the tensors", 0.0)]
        if isinstance(panel, PyTorch) and expected.get("parameters") is not None:
            equal = panel.parameters() == expected["parameters"]
            figures.append(Figure(f"{panel.package}: parameter count", 0.0 if equal else np.inf))
        return figures

    def _renamed(self, reference, inputs) -> Arrays:
        names = dict(zip(self.entry.inputs, inputs, strict=False))
        if reference.inputs:
            names = {ours: theirs for theirs, ours in reference.inputs.items()}
        found = {ours: inputs[theirs] for ours, theirs in names.items()} | dict(reference.given)
        return {name: found[name] for name in self.entry.inputs if name in found} if reference.given else found

    def _sampled(self, panel, reference, inputs) -> Arrays:
        modules = {}
        for theirs, path in reference.modules.items():
            path, _, which = path.partition("@")
            module, _, call = path.partition("#")
            modules[theirs] = module, int(call or 0), int(which or 0)
        found = {}
        with panel.recording({module for module, _, _ in modules.values()}) as calls:
            evaluated = panel.outputs(inputs) if reference.outputs or modules else {}
        for theirs, (module, call, which) in modules.items():
            found[theirs] = calls[module][call][1][which]
        trained = panel.outputs(inputs, True) if reference.training else {}
        results = panel.results(inputs) if reference.results else {}
        for keys, outputs in (
            (reference.outputs, evaluated),
            (reference.training, trained),
            (reference.results, results),
        ):
            found |= {theirs: outputs[ours or panel.returned[0]] for theirs, ours in keys.items()}
        return found

    def _reference_losses(self, panel, reference, expected) -> list[Figure]:
        inputs = self._renamed(reference, fingerprints.loss_inputs_of(expected))
        targets = reference.targets(expected) if reference.targets else {}
        losses, norms, figures = self._losses_and_norms(panel, reference, expected, inputs, targets)
        terms = {}
        for theirs, ours in reference.losses.items():
            terms[ours] = terms.get(ours, 0.0) + np.asarray(expected["loss"]["terms"][theirs])
        figures += compare({ours: losses[ours] for ours in terms}, terms, f"{panel.package}: loss ")
        scale = BOUNDS["reference"] / reference.bound
        figures = [Figure(f.name, f.relative * scale, f.absolute) for f in figures]
        wanted = {name: v for name, v in expected["loss"]["gradients"].items() if name not in reference.skip}
        for pattern, replacement in reference.rename.items():
            wanted = {re.sub(pattern, replacement, name): value for name, value in wanted.items()}
        if not wanted:
            return figures
        norms = compare(
            {name: norms[name] for name in wanted},
            {name: np.asarray(norm) for name, (norm, _) in wanted.items()},
            f"{panel.package}: gradient norm ",
            floor=1e-3 * max(norm for norm, _ in wanted.values()),
        )
        scale = BOUNDS["reference"] / reference.gradient_bound
        return figures + [Figure(f.name, f.relative * scale, f.absolute) for f in norms]

    def _losses_and_norms(self, panel, reference, expected, inputs, targets):
        """Losses, norms of gradients by name, and figures of what is left after a step."""
        if not reference.step:
            of_inputs = any(name.startswith("input.") for name in expected["loss"]["gradients"])
            gradients = panel.gradients(inputs, targets, of_inputs)
            norms = {name: np.linalg.norm(value.astype(np.float64)) for name, value in gradients.items()}
            return panel.losses(inputs, targets), norms, []
        losses, norms = panel.step(inputs, targets)
        outputs, state = panel.outputs(inputs, True) if reference.after else {}, panel.state()
        figures = []
        for theirs, ours in reference.after.items():
            measured = compare_with_fingerprint(
                f"{panel.package}: {theirs}", outputs[ours], expected["outputs"][theirs]
            )
            figures += [Figure(f.name, f.relative * BOUNDS["reference"] / 1e-2, f.absolute) for f in measured]
        for theirs, ours in reference.state.items():
            figures += compare_with_fingerprint(f"{panel.package}: {theirs}", state[ours], expected["outputs"][theirs])
        return losses, norms, figures

    def trace(self, twins=None, training: bool = False, bound: float = 1e-9) -> list[dict]:
        """The divergence of every module in execution order, in float64 (see :func:`first_divergence`)."""
        twins = twins or self.twins("float64")
        inputs, _ = self.arrays()
        return first_divergence(twins[0].record(inputs, training), twins[1].record(inputs, training), bound)


def _standard_errors(x: np.ndarray, y: np.ndarray) -> float:
    """By how many standard errors two sets of random values differ, in mean or deviation.

    Constants must be equal; of fewer than 32 random values nothing is asked but that neither side has constants.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    if x.shape == y.shape and np.allclose(x, y):
        return 0.0
    if x.shape != y.shape or any(np.ptp(z) == 0 and (z.size > 1 or z.flat[0] in (0, 1)) for z in (x, y)):
        return np.inf
    if x.size < 32:
        return 0.0
    error = np.sqrt((x.var() + y.var()) / x.size)
    return float(max(abs(x.mean() - y.mean()) / error, abs(x.std() - y.std()) / (error / np.sqrt(2))))


def compare_with_fingerprint(name: str, found: np.ndarray, expected: dict) -> list[Figure]:
    """Figures of an array against its fingerprint: sampled values, and mean, deviation and largest value."""
    if list(found.shape) != list(expected["shape"]):
        return [Figure(f"{name}: shape {list(found.shape)}, {expected['shape']} expected", np.inf, np.inf)]
    flat = found.astype(np.float64).ravel()
    if "data" in expected:
        return compare({name: flat}, {name: np.asarray(expected["data"])})
    at = np.unique(np.round(np.linspace(0, flat.size - 1, min(64, flat.size)))).astype(int)
    figures = compare({name: flat[at]}, {name: np.asarray(expected["values"])})
    moments = {"mean": flat.mean(), "std": flat.std(), "absmax": np.abs(flat).max()}
    size = expected["absmax"] or 1.0
    for key, value in moments.items():
        difference = float(abs(value - expected[key]))
        figures.append(Figure(f"{name}: {key}", difference / size, difference))
    return figures


def _signature(proto) -> tuple:
    def described(values):
        return tuple(
            (
                value.name,
                value.type.tensor_type.elem_type,
                tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim),
            )
            for value in values
        )

    return described(proto.graph.input), tuple(sorted(described(proto.graph.output)))


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array
