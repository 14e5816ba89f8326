"""Details beyond the saved proof: figures of every tensor in both precisions, and the engines' answers.

The details of a case are measured once and kept in the cache folder, under a name that holds a digest of everything
they depend on: both model files and what they import, the case, the measuring code, the versions of the frameworks.
What is missing for the current sources counts as not run.
"""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from parity_tests.harness.digest import PACKAGES, of_case, of_harness
from parity_tests.saved import NONE, figure, fits
from scripts.answer import ENGINES
from scripts.output import frameworks, line, written
from weights.checkpoints import cache_folder

__all__ = ["digest", "measure", "path_of", "read"]

FORMAT = 1  # of the files in the cache; changes when ``measured`` computes something else
FIGURE = (figure, NONE)  # None for infinity and NaN
QUARTILES = {"median": figure, "low": figure, "high": figure}
ANSWER = (
    {"kind": "boxes", "count": int, "rows": [{"box": [float] * 4, "score": float, "label": int}]},
    {"kind": "classes", "rows": [{"class": int, "score": float}]},
    {"kind": "picture", "jpeg": str, "size": [int, int]},
    {"kind": "values", "rows": [{"name": str, "shape": [int], "values": [float]}]},
)
PARTS = {  # what is measured, in turn, and the shape of what is kept
    "levels": {str: {str: {"figure": FIGURE, "name": str}}},
    "losses": [{"name": str, "values": [float, float], "float64": FIGURE, "float32": FIGURE}],
    "gradients": [{"name": str, "shape": [int], "float64": FIGURE, "absolute": FIGURE, "float32": FIGURE}],
    "trace": [{"module": str, "float64": FIGURE, "float32": FIGURE}],
    "classes": {str: [str, str]},
    "onnx": {
        str: {
            str: {"nodes": int, "bytes": int, "transposes": int, "opset": int, "sha256": str, "operators": {str: int}}
        }
    },
    "latency": (
        {
            "runs": int,
            "inputs": {str: [int]},
            "milliseconds": dict.fromkeys(ENGINES[2:], QUARTILES),
            "ratio": QUARTILES,
        },
        NONE,
    ),
    "answers": (
        {
            "picture": (str, NONE),
            "size": ([int, int], NONE),
            "inputs": {str: [int]},
            "engines": {str: ANSWER},
            "differences": {str: FIGURE},
            "bound": float,
        },
        NONE,
    ),
}


def digest(case) -> str:
    """Digest of everything that the details of a case depend on."""
    everything = [FORMAT, of_case(case.name), of_harness()]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


def path_of(case) -> Path:
    """Where the details of a case are kept."""
    return cache_folder() / "report" / f"{case.name}-{digest(case)}.json"


def read(case) -> dict | None:
    """The details of a case; None if they were not measured for these sources, or the file is damaged."""
    try:
        found = json.loads(path_of(case).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = fits(found, {"case": str, "model": str, "versions": {str: str}, "errors": {str: str}})
    whole = whole and all(fits(found[part], shape) for part, shape in PARTS.items() if part in found)
    answers = (whole and found.get("answers")) or {"engines": {}, "differences": {}}
    whole = whole and answers["engines"].keys() == answers["differences"].keys()
    return found if whole and found["case"] == case.name else None


def measure(name: str, tell: Callable[[str], None] = lambda part: None) -> dict:
    """Measure the details of a case and keep them.

    Args:
        name: of the case.
        tell: called with each part before it is measured.

    Returns:
        "case", "model", "versions", and the parts that could be measured: "levels", "losses", "gradients", "trace",
        "classes", "onnx", "latency", "answers"; under "errors", why the others could not.
    """
    frameworks(threads=1)
    from parity_tests.harness.case import cases
    from scripts.report.measured import Measured

    case = cases()[name]
    measured = Measured(case)
    found: dict = {"case": case.name, "model": case.model, "errors": {}}
    found["versions"] = {package: version(package) for package in PACKAGES}
    for part in PARTS:
        tell(part)
        try:
            found[part] = getattr(measured, part)()
        except Exception as error:  # the other parts are measured anyway, and the page says what is missing
            found["errors"][part] = f"{type(error).__name__}: {line(error)}"
    path = path_of(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as temporary:
        temporary.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
    return found
