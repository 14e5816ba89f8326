"""The saved curves of both panels: what they hold, how far they agree. Reading them needs no framework."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from parity_tests.saved import NONE, DamagedProof, figure, fits

__all__ = ["FOLDER", "PRECISIONS", "apart", "differences", "measure", "parted", "read", "save", "shown_steps"]

FOLDER = Path(__file__).parents[1] / "curves"
PRECISIONS = {"float64": None, "float32": 20}  # and after how many steps a run in it ends
TOGETHER = 1e-6  # relative difference up to which two curves are one
FLOOR = 0.01  # share of a curve's largest value below which a difference counts relative to that
PACKAGES = ("numpy", "scikit-image", "scikit-learn", "tensorflow", "torch")
PANEL_NAMES = ("tf_impl", "torch_impl")
PANEL_CURVES = {name: {str: [float]} for name in PANEL_NAMES}
RUN = {
    "run": str,
    "model": str,
    "steps": int,
    "falls": str,
    "at": {precision: [int] for precision in PRECISIONS},
    "losses": dict.fromkeys(PRECISIONS, PANEL_CURVES),
    "worst": dict.fromkeys(PRECISIONS, figure),
    "parted": dict.fromkeys(PRECISIONS, (int, NONE)),
    "recall?": {"pixels": figure, "before": figure, "after": dict.fromkeys(PANEL_NAMES, figure)},
    "overlap?": {"before": figure, "after": dict.fromkeys(PANEL_NAMES, figure)},
    "points?": {"labels": [int], **{name: [[float, float]] for name in PANEL_NAMES}},
    "versions": {str: str},
}


def shown_steps(steps: int, every: int = 5) -> list[int]:
    """The steps that are saved: the first ten, then every fifth, and the last."""
    return sorted({*range(min(10, steps)), *range(0, steps, every), steps - 1})


def differences(ours: Iterable[float], theirs: Iterable[float]) -> np.ndarray:
    """Relative differences of two curves, step by step."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs) / np.maximum(np.abs(theirs), FLOOR * np.abs(theirs).max())


def apart(curves: Mapping[str, Mapping[str, Iterable[float]]]) -> np.ndarray:
    """The largest of :func:`differences` over the losses, step by step, of panel -> loss -> values."""
    ours, theirs = curves.values()
    return np.max([differences(ours[loss], theirs[loss]) for loss in ours], 0)


def parted(found: np.ndarray) -> int | None:
    """The first step at which curves differ by more than 1e-6; None if there is none."""
    beyond = np.flatnonzero(~(found <= TOGETHER))
    return int(beyond[0]) if len(beyond) else None


def measure(run, tell=lambda step: None) -> dict:
    """A run in both panels and precisions, as it is saved."""
    from importlib.metadata import version

    from parity_tests.learning import digits, pictures
    from parity_tests.learning.train import PANELS, Learner
    from weights.processing.retrieval.metrics import recall_at_k

    looked_at = run.embedding or run.trunk is not None
    held_out = digits.held_out() if run.trunk is None else digits.held_out_noisy()

    def recall(embeddings) -> float:
        return recall_at_k(embeddings, held_out["labels"], (1,))[1]

    found: dict = {
        "run": run.name,
        "model": run.model,
        "steps": run.steps,
        "falls": run.falls[0],
        "at": {},
        "losses": {},
        "worst": {},
        "parted": {},
    }
    if looked_at:
        found["recall"] = {"pixels": recall(held_out["images"].reshape(len(held_out["images"]), -1))}
    if run.follows:
        found["overlap"] = {}
    if run.embedding == 2:
        found["points"] = {"labels": held_out["labels"].tolist()}
    for precision, limit in PRECISIONS.items():
        steps = min(run.steps, limit or run.steps)
        curves: dict[str, dict[str, list[float]]] = {}
        for package in PANELS:
            learner = Learner(run, package, precision)
            if looked_at and precision == "float64":
                found["recall"].setdefault("before", recall(learner.embeddings(held_out["images"])))
            if run.follows and "before" not in found["overlap"]:
                found["overlap"]["before"] = round(learner.overlap(pictures.sequences()), 4)
            curve: dict[str, list[float]] = {loss: [] for loss in run.shown}
            for step in range(steps):
                for loss, value in learner.step().items():
                    curve[loss].append(value)
                tell(step)
            curves[package] = curve
            if run.follows and precision == "float64":
                after = round(learner.overlap(pictures.sequences()), 4)
                found["overlap"].setdefault("after", {})[package] = after
            if looked_at and precision == "float64":
                embeddings = learner.embeddings(held_out["images"])
                found["recall"].setdefault("after", {})[package] = recall(embeddings)
                if "points" in found:
                    found["points"][package] = np.round(embeddings, 4).tolist()
        difference = apart(curves)
        at = found["at"][precision] = shown_steps(steps)
        found["losses"][precision] = {
            package: {loss: [values[i] for i in at] for loss, values in curve.items()}
            for package, curve in curves.items()
        }
        found["worst"][precision] = float(f"{difference.max():.2g}")
        found["parted"][precision] = parted(difference)
    found["versions"] = {package: version(package) for package in PACKAGES}
    return found


def save(found: dict, folder: Path = FOLDER) -> Path:
    """Write a run's file, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{found['run']}.json"
    temporary = target.with_suffix(".part")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(temporary, target)
    return target


def read(folder: Path = FOLDER) -> dict[str, dict]:
    """The saved runs by name.

    Raises:
        DamagedProof: names the file.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            run = None
        if not fits(run, RUN) or run["run"] != path.stem or not _complete(run):
            raise DamagedProof(f"{path}: damaged, a training was expected")
        found[path.stem] = run
    return found


def _complete(run: dict) -> bool:
    """Whether every curve has a value for every saved step, and every held-out picture a place."""
    lengths = [
        len(values) == len(run["at"][precision]) > 1
        for precision, panels in run["losses"].items()
        for curves in panels.values()
        for values in curves.values()
    ]
    plane = run.get("points")
    return all(lengths) and (plane is None or len({len(points) for points in plane.values()}) == 1)
