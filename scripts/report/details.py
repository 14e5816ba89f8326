"""What a page shows beyond ``proof.json``: figures of every tensor in both precisions, and what engines answer.

The details of a case are measured once and kept in the cache folder, under a name that holds a digest of everything
they depend on: both model files and what they import, the case, the measuring code, the versions of the frameworks.
What is not there for the sources as they are now counts as not run.
"""

import ast
import hashlib
import importlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from scripts.output import frameworks, line, written
from scripts.parity import PACKAGES
from weights.checkpoints import cache_folder

__all__ = ["digest", "measure", "path_of", "read"]

ROOT = Path(__file__).parents[2]
FORMAT = 1  # of the files in the cache; another one when ``measured`` finds something else
OWN = ("tf_impl", "torch_impl", "weights", "parity_tests")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
MEASURING = ("parity_tests.measure", "parity_tests.panels")
PARTS = ("levels", "losses", "gradients", "trace", "classes", "onnx", "latency", "answers")


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]] | None:
    """A digest of a module of ours without comments and docstrings, and the modules of ours that it imports."""
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            del node.body[0]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    names = (name for name in names if name.partition(".")[0] in OWN)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(dict.fromkeys(names))


def digest(case) -> str:
    """Of everything that the details of a case depend on."""
    families = sorted(path.stem for path in (ROOT / "parity_tests" / "cases").glob("[a-z]*.py"))
    modules = (importlib.import_module(f"parity_tests.cases.{family}") for family in families)
    defined = [module.__name__ for module in modules if case.name in {other.name for other in module.CASES}]
    queue = [*(f"{panel}.{case.entry.module}" for panel in ("tf_impl", "torch_impl")), *MEASURING, *defined]
    found: dict[str, str] = {}
    while queue:
        module = queue.pop()
        source = None if module in found else _source(module)
        if source is not None:
            found[module], imports = source
            queue += imports
    versions = {package: version(package) for package in PACKAGES}
    everything = [FORMAT, case.name, repr(case.entry), sorted(found.items()), versions]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


def path_of(case) -> Path:
    """Where the details of a case are kept."""
    return cache_folder() / "report" / f"{case.name}-{digest(case)}.json"


def read(case) -> dict | None:
    """The details of a case; None if they were not measured for these sources, or the file is damaged."""
    try:
        found = json.loads(path_of(case).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("case") == case.name else None


def measure(name: str, tell: Callable[[str], None] = lambda part: None) -> dict:
    """Measure the details of a case and keep them.

    Args:
        name: of the case.
        tell: called with each part before it is measured.

    Returns:
        "case", "model", "versions", and the parts that could be measured: "levels", "losses", "gradients", "trace",
        "classes", "onnx", "latency", "answers"; under "errors", why another one could not.
    """
    frameworks(threads=1)
    from parity_tests.cases import cases
    from scripts.report.measured import Measured

    case = cases()[name]
    measured = Measured(case)
    found: dict = {"case": case.name, "model": case.model, "errors": {}}
    found["versions"] = {package: version(package) for package in PACKAGES}
    for part in PARTS:
        tell(part)
        try:
            found[part] = getattr(measured, part)()
        except Exception as error:  # the other parts are measured all the same, and the page says what is missing
            found["errors"][part] = f"{type(error).__name__}: {line(error)}"
    path = path_of(case)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as temporary:
        temporary.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
    return found
