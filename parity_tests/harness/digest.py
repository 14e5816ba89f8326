"""What the figures of a case depend on, as digests; and which cases ``scripts/test --changed`` proves again.

A case's own digest is of both model files and what they import inside the project, of the module that defines the case,
its table of the catalogue, and its fingerprints. The measuring code and the versions of the packages have a digest of
their own, because they change for all cases at once. Comments and docstrings do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from parity_tests.harness import case as cases
from parity_tests.harness import fingerprints

__all__ = ["PACKAGES", "chosen", "of_case", "of_harness", "sources"]

ROOT = Path(__file__).parents[2]
OWN = ("tf_impl", "torch_impl", "weights", "parity_tests")
PACKAGES = ("tensorflow", "keras", "torch", "onnx", "onnxruntime")
HARNESS = ("parity_tests.harness.measure", "parity_tests.harness.panels")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


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
        elif isinstance(node, ast.ImportFrom):
            package = module.rpartition(".")[0] if node.level else ""
            source = ".".join(part for part in (package, node.module) if part)
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    names = (name for name in names if name.partition(".")[0] in OWN)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(dict.fromkeys(names))


def sources(modules: Iterable[str], without: Iterable[str] = ()) -> dict[str, str]:
    """Digests of modules and of all that they import inside the project, by name.

    Args:
        modules: dotted names.
        without: beginnings of names that are not followed.
    """
    queue, found, without = list(modules), {}, tuple(without)
    while queue:
        module = queue.pop()
        source = None if module in found or module.startswith(without) else _source(module)
        if source is not None:
            found[module], imports = source
            queue += imports
    return dict(sorted(found.items()))


def _short(everything) -> str:
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:16]


@cache
def of_harness() -> str:
    """Of the measuring code and the versions of the packages."""
    return _short([sources(HARNESS), {package: version(package) for package in PACKAGES}])


def of_case(case: cases.Case) -> str:
    """Of everything else that the figures of a case depend on."""
    panels = [f"{panel}.{case.entry.module}" for panel in ("tf_impl", "torch_impl")]
    modules = sources([*panels, _defined_in()[case.name]], without=("parity_tests.harness", "weights"))
    files = {reference.file: fingerprints.path_of(reference.file).read_bytes() for reference in case.references}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return _short([case.name, repr(case.entry), modules, digests])


@cache
def _defined_in() -> dict[str, str]:
    import importlib

    return {case.name: module for module in cases.modules() for case in importlib.import_module(module).CASES}


def chosen(saved: Mapping[str, Mapping], commit: str) -> dict[str, str]:
    """Which cases are to be proven again, and why; the others are taken on trust.

    Args:
        saved: cases of the saved proof, by name.
        commit: decides which of the unchanged cases have their turn.

    Returns:
        case -> "new", "changed", "harness" (a quarter of the cases for which only the harness or the versions
        changed), "turn" (a tenth of the rest), or "" if it is taken on trust.
    """
    found = {}
    for name, case in cases.cases().items():
        turn = int.from_bytes(hashlib.sha256(f"{commit} {name}".encode()).digest()[:4]) / 2**32
        if name not in saved:
            found[name] = "new"
        elif saved[name].get("digest") != of_case(case):
            found[name] = "changed"
        elif saved[name].get("harness") != of_harness():
            found[name] = "harness" if turn < 1 / 4 else ""
        else:
            found[name] = "turn" if turn < 1 / 10 else ""
    return found
